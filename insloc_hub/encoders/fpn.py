"""InsLoc-FPN's region encoder (paper.md A.3): pyramid with BatchNorm, every box on every level, one shared head.

Names of neck and head are the release's (`neck.lateral_convs.0.conv`, ...), so that a person can compare the files.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from insloc_hub import paper
from insloc_hub.boxes.grid import one_each, roi_grid
from insloc_hub.encoders.backbone import feature_maps, map_channels, map_strides
from insloc_hub.errors import InslocError
from insloc_hub.shapes import Float


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm; same size out."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """No activation: the head adds its own, the neck has none."""
        out: Tensor = self.bn(self.conv(x))
        return out


class Neck(nn.Module):
    """C2..C5 -> P2..P5: lateral 1x1 + BN, top-down sum with nearest upsampling, 3x3 + BN; no activation, no P6."""

    def __init__(self, widths: Sequence[int], channels: int = paper.FPN_CHANNELS) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvNorm(width, channels, 1) for width in widths)
        self.fpn_convs = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in widths)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_uniform_(part.weight)

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b c _ _"]]:
        """Finest map first, in and out."""
        sums = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(sums) - 1, 0, -1):
            finer = sums[level - 1]
            sums[level - 1] = finer + nn.functional.interpolate(sums[level], size=finer.shape[2:], mode="nearest")
        return [conv(x) for conv, x in zip(self.fpn_convs, sums, strict=True)]


class BoxHead(nn.Module):
    """RoI features -> vectors: 4 x (3x3 conv, BN, ReLU), flatten (c, y, x), two fc with ReLU; what a detector takes over."""

    def __init__(self, channels: int = paper.FPN_CHANNELS) -> None:
        super().__init__()
        self.shared_convs = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in range(paper.FPN_HEAD_CONVS))
        flat = channels * paper.FPN_ROI_SIZE**2
        self.shared_fcs = nn.ModuleList([nn.Linear(flat, paper.FPN_HEAD_FC), nn.Linear(paper.FPN_HEAD_FC, paper.FPN_HEAD_FC)])
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, x: Float[Tensor, "n c 7 7"]) -> Float[Tensor, "n d"]:
        """One vector per RoI; in training all RoIs given together share batch statistics."""
        for conv in self.shared_convs:
            x = nn.functional.relu(conv(x))
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = nn.functional.relu(fc(x))
        return x


class FPNEncoder(nn.Module):
    """Images and one box per level -> embeddings on the unit sphere, a level each (P2..P5)."""

    def __init__(self, trunk: nn.Module, arch: str, embedding_dim: int) -> None:
        super().__init__()
        missing = sorted(set(paper.FPN_STRIDES) - set(map_strides(trunk)))
        if missing:
            raise InslocError(
                f"{arch} has no map of stride {missing[0]}, so InsLoc-FPN can't be built on it: it needs "
                f"{', '.join(map(str, paper.FPN_STRIDES))}, and {arch} has {', '.join(map(str, sorted(map_strides(trunk))))}"
            )
        widths = map_channels(trunk)
        self.trunk = trunk
        self.neck = Neck([widths[stride] for stride in paper.FPN_STRIDES])
        self.head = BoxHead()
        self.projection = nn.Linear(paper.FPN_HEAD_FC, embedding_dim)  # the release's fc_cls
        nn.init.normal_(self.projection.weight, std=paper.FPN_LAST_STD)
        nn.init.zeros_(self.projection.bias)

    def forward(self, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 4 d"]:
        """`boxes[:, l]` (pixels of `images`) is pooled on level l."""
        embeddings: Tensor = nn.functional.normalize(self.projection(self.vectors(images, boxes)), dim=2)
        return embeddings

    def vectors(self, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 4 1024"]:
        """The head's output. RoIs go through it as ONE batch, image-major then level: its BatchNorm mixes the levels."""
        found = feature_maps(self.trunk, images, paper.FPN_STRIDES)
        pyramid = self.neck([found[stride] for stride in paper.FPN_STRIDES])
        rois = [
            roi_grid(level, one_each(boxes[:, at]), stride, paper.FPN_ROI_SIZE)
            for at, (level, stride) in enumerate(zip(pyramid, paper.FPN_STRIDES, strict=True))
        ]
        stacked = torch.stack(rois, dim=1)  # [b 4 c 7 7]
        vectors: Tensor = self.head(stacked.flatten(0, 1)).unflatten(0, stacked.shape[:2])
        return vectors
