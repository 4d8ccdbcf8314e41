"""The control's encoder: the mean of the last map, whatever the box. MoCo v2 (Chen et al. 2020, arXiv:2003.04297)."""

from torch import Tensor, nn

from insloc_hub.encoders.backbone import feature_maps, map_channels
from insloc_hub.encoders.project import Projection
from insloc_hub.shapes import Float


class WholeEncoder(nn.Module):
    """Images -> embeddings on the unit sphere, one level. Boxes are taken, as by the other encoders, and not read."""

    def __init__(self, trunk: nn.Module, embedding_dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.stride = max(map_channels(trunk))
        width = map_channels(trunk)[self.stride]
        self.projection = Projection(width, width, embedding_dim)

    def forward(self, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 1 4"]) -> Float[Tensor, "b 1 d"]:
        """The last map, not what some families put behind it (conv_head): the same place that C4 reads."""
        vectors = feature_maps(self.trunk, images, [self.stride])[self.stride].mean(dim=(2, 3))
        embeddings: Tensor = nn.functional.normalize(self.projection(vectors), dim=1)
        return embeddings[:, None]


class Classifier(nn.Module):
    """Images -> class logits from the mean of the last map: the supervised reference row."""

    def __init__(self, trunk: nn.Module, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.stride = max(map_channels(trunk))
        self.fc = nn.Linear(map_channels(trunk)[self.stride], classes)

    def forward(self, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 1 4"]) -> Float[Tensor, "b classes"]:
        """Boxes are taken, as by the encoders, and not read."""
        logits: Tensor = self.fc(feature_maps(self.trunk, images, [self.stride])[self.stride].mean(dim=(2, 3)))
        return logits
