"""Any timm CNN as the backbone of a detector, under torchvision's names: `backbone.body.*`, `backbone.fpn.*`.

The pyramid is torchvision's with norms, which computes what the encoders' neck does (tested against the same frozen numbers).
"""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from insloc_hub import paper
from insloc_hub.encoders.backbone import feature_maps, last_stage_name, map_channels, map_strides
from insloc_hub.errors import InslocError
from insloc_hub.shapes import Float

PYRAMID_STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}
"""Of P2..P6 by torchvision's names; P6 is for the RPN only (paper.md C.3)."""


def drop_unused(trunk: nn.Module, deepest: int) -> None:
    """Take away what lies behind map number `deepest`: no gradient would reach it, and torchvision has no place for it."""
    if hasattr(trunk, "prune_intermediate_layers"):
        trunk.prune_intermediate_layers([deepest], prune_norm=False, prune_head=True)  # type: ignore[operator]


class PyramidBody(nn.Module):
    """Images -> P2..P6: maps of strides 4..32, lateral and output convolutions with norms, P6 = every second cell of P5."""

    def __init__(self, trunk: nn.Module, arch: str) -> None:
        super().__init__()
        there = map_strides(trunk)
        missing = [stride for stride in paper.FPN_STRIDES if stride not in there]
        if missing:
            raise InslocError(
                f"{arch} has no map of stride {missing[0]}, so no FPN detector can be built on it; it has {sorted(there)}"
            )
        widths = map_channels(trunk)
        drop_unused(trunk, there[max(paper.FPN_STRIDES)])
        self.body = trunk
        self.fpn = FeaturePyramidNetwork(
            [widths[stride] for stride in paper.FPN_STRIDES],
            paper.FPN_CHANNELS,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d,
        )
        self.out_channels = paper.FPN_CHANNELS

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Finest first; sides of `images` are multiples of 32."""
        found = feature_maps(self.body, images, paper.FPN_STRIDES)
        maps: dict[str, Tensor] = self.fpn(OrderedDict((str(i), found[s]) for i, s in enumerate(paper.FPN_STRIDES)))
        return maps


class Stride16Body(nn.Module):
    """Images -> the one map of a C4 detector; the trunk's last stage is taken out of it, to be the RoI head's."""

    def __init__(self, trunk: nn.Module, arch: str) -> None:
        super().__init__()
        name = last_stage_name(trunk, arch)
        widths = map_channels(trunk)
        drop_unused(trunk, map_strides(trunk)[2 * paper.C4_STRIDE])
        self.out_channels, self.stage_channels = widths[paper.C4_STRIDE], widths[2 * paper.C4_STRIDE]
        stage = trunk.get_submodule(name)
        parent, _, leaf = name.rpartition(".")
        setattr(trunk.get_submodule(parent), leaf, nn.Identity())
        self.body = trunk
        self.stage = (stage,)  # in a tuple, so not registered: its parameters are the head's

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The stride-16 map, by torchvision's name for a single one."""
        return OrderedDict([("0", feature_maps(self.body, images, [paper.C4_STRIDE])[paper.C4_STRIDE])])
