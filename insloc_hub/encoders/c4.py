"""InsLoc-C4's region encoder, as inferred: no configuration was released (paper.md A.6).

Trunk up to stride 16 -> RoIAlign on the box -> the trunk's last stage on that grid -> mean -> two-layer projection.
"""

from torch import Tensor, nn

from insloc_hub import paper
from insloc_hub.boxes.grid import one_each, roi_grid
from insloc_hub.encoders.backbone import feature_maps, last_stage_name, map_channels
from insloc_hub.encoders.project import Projection
from insloc_hub.shapes import Float


class C4Encoder(nn.Module):
    """Images and one box each -> embeddings on the unit sphere, one level."""

    def __init__(self, trunk: nn.Module, arch: str, roi_size: int, embedding_dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.roi_size = roi_size
        self.stage_name = last_stage_name(trunk, arch)
        width = map_channels(trunk)[32]
        self.projection = Projection(width, width, embedding_dim)

    def forward(self, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 1 4"]) -> Float[Tensor, "b 1 d"]:
        """`boxes` are in pixels of `images`; parts more than a cell outside the map contribute zeros."""
        stage = self.trunk.get_submodule(self.stage_name)
        vectors = c4_region_vectors(self.trunk, stage, images, boxes[:, 0], self.roi_size)
        embeddings: Tensor = nn.functional.normalize(self.projection(vectors), dim=1)
        return embeddings[:, None]


def c4_region_vectors(
    trunk: nn.Module, stage: nn.Module, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4"], roi_size: int
) -> Float[Tensor, "b c"]:
    """One vector per image: RoIAlign of its box on the stride-16 map, then `stage` (the last one), then the mean."""
    stride16 = feature_maps(trunk, images, [paper.C4_STRIDE])[paper.C4_STRIDE]
    return last_stage_vectors(stage, stride16, one_each(boxes), roi_size)


def last_stage_vectors(
    stage: nn.Module, stride16: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 5"], roi_size: int
) -> Float[Tensor, "n d"]:
    """One vector per box of ready-made maps; a row of `rois` is the number of its map, then XYXY in pixels."""
    vectors: Tensor = stage(roi_grid(stride16, rois, paper.C4_STRIDE, roi_size)).mean(dim=(2, 3))
    return vectors
