"""One picture with its objects, and what a detector says of it: the types that readers, training and metrics share.

Boxes are XYXY with edge coordinates (x2 - x1 = width) in pixels of the upright original; labels count from 0 in the order
of the split's classes. Pixels are decoded when they are asked for, by the house's one decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from insloc_eval.sets import Split
from insloc_hub.data import folder
from insloc_hub.data.transform import resize
from insloc_hub.errors import BadImage
from insloc_hub.files import digest
from insloc_hub.shapes import Bool, Float, Int, UInt8

Mask = list[list[float]] | dict[str, Any]
"""Polygons (x, y, x, y, ...), or a COCO run-length encoding {size [h, w], counts}."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One annotated picture."""

    key: str
    image_id: int
    tiles: tuple[folder.Sample, ...]
    """Its image; or the images of a mosaic, row by row."""
    size_wh: tuple[int, int]
    """Of the picture, as annotated."""
    boxes: Float[Tensor, "n 4"]
    """float32."""
    labels: Int[Tensor, " n"]
    """int64."""
    areas: Float[Tensor, " n"]
    """float64, pixels: of the masks where the annotations say so, else of the boxes. It decides small, medium, large."""
    masks: tuple[Mask, ...] | None
    crowd: Bool[Tensor, " n"]
    """A region of many objects: a hit on it counts neither way."""
    difficult: Bool[Tensor, " n"]
    """Learnt, but a hit on it counts neither way."""

    def load(self) -> UInt8[Tensor, "3 h w"]:
        """The pixels. BadImage: can't be decoded, or of another size than annotated; the text names the file."""
        if len(self.tiles) == 1:
            pixels = folder.read_sample(self.tiles[0])
            h, w = pixels.shape[1:]
            if (w, h) != self.size_wh:
                place, said = self.tiles[0].where, "{} x {}".format(*self.size_wh)
                raise BadImage(
                    "wrong_size", f"{place}: is {w} x {h} px, but its annotation says {said}; the boxes can't be right"
                )
            return pixels
        side = round(len(self.tiles) ** 0.5)
        tile = self.size_wh[0] // side
        cells = [resize(folder.read_sample(one), (tile, tile)) for one in self.tiles]
        return torch.cat([torch.cat(cells[row * side : (row + 1) * side], dim=2) for row in range(side)], dim=1)

    def facts(self) -> list[Any]:
        """What a fingerprint needs."""
        files = [one.path.stat().st_size if one.span is None else one.span[1] for one in self.tiles]
        flags = [self.crowd.tolist(), self.difficult.tolist()]
        return [self.key, self.image_id, files, self.boxes.tolist(), self.labels.tolist(), flags, self.masks]


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What a detector finds in one picture, at most `most_detections`, in any order."""

    boxes: Float[Tensor, "n 4"]
    """float32, pixels of the original, clipped to it."""
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    masks: tuple[dict[str, Any], ...] | None
    """COCO run-length encodings of the original's size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionSplit(Split):
    """A data folder for detectors; `train` and `test` stay empty, since a mosaic is no image of the folder."""

    learn: tuple[Sample, ...]
    """Pictures to train on, by id; each has an object."""
    ask: tuple[Sample, ...]
    """Pictures to be scored on, by id."""
    classes: tuple[str, ...]

    @property
    def learned(self) -> int:
        """Training pictures."""
        return len(self.learn)

    @property
    def tested(self) -> int:
        """Test pictures."""
        return len(self.ask)

    def fingerprint(self, training: bool) -> str:
        """Digest of pictures, objects and classes; of the training pictures too where they matter."""
        learnt = [sample.facts() for sample in self.learn] if training else []
        return digest([self.classes, learnt, [sample.facts() for sample in self.ask]])


def objects_of(
    rows: Sequence[Any],
    masks: Sequence[Mask] | None = None,
    areas: Sequence[float] | None = None,
    crowd: Sequence[bool] | None = None,
    difficult: Sequence[bool] | None = None,
    labels: Sequence[int] = (),
) -> dict[str, Any]:
    """The object fields of a Sample from plain rows of XYXY."""
    n = len(rows)
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(n, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return {
        "boxes": boxes.float(),
        "labels": torch.tensor(labels, dtype=torch.int64).reshape(n),
        "areas": sides.prod(dim=1) if areas is None else torch.tensor(areas, dtype=torch.float64).reshape(n),
        "masks": None if masks is None else tuple(masks),
        "crowd": torch.tensor(crowd or [False] * n, dtype=torch.bool).reshape(n),
        "difficult": torch.tensor(difficult or [False] * n, dtype=torch.bool).reshape(n),
    }
