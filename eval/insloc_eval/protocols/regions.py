"""Protocols on annotated objects: their boxes and their classes. Constants with sources (paper.md is docs/notes/paper.md)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from insloc_eval.protocols.linear import Sweep
from insloc_eval.protocols.record import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Boxes(Protocol):
    """The box of the image's object, read out of a frozen map by ridge regression."""

    needs_boxes: ClassVar[bool] = True
    transform: str = "whole"
    stride: int = 16
    pool: int = 7
    """The map is average-pooled to pool x pool, whatever its size."""
    penalties: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    """Ridge penalties, as shares of the features' total variance."""
    held_out: float = 0.1
    """Share of the training images that chooses the penalty, by mean IoU; then all are used."""
    most_training: int = 20_000
    sliver: float = 1 / 32
    """A box with a side below this share of its image's is left out; so is a whole image."""
    small: float = 0.5
    """Objects below this share of the image's area are reported apart too."""
    hit_iou: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Mosaic(Sweep):
    """The class of an object among eight others, read out of region features. Pixels of the tiles."""

    needs_boxes: ClassVar[bool] = True
    same_question: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("top1", "top1_stride32", "top1_stride16"),
        ("alone", "alone_stride32", "alone_stride16"),
        ("clutter", "clutter_stride32", "clutter_stride16"),
    )
    half: str = ""
    """A or B: only test images of this half of every class; empty: both, never in one mosaic."""
    grid: int = 3
    tile: int = 64
    enlarge: int = 2
    """The mosaic, and a tile alone, go into the network enlarged this many times."""
    least_side: int = 8
    """A box with a side below this in the tile is not read out; nor is a whole tile."""
    composition_seed: int = 0
    stride: int = 16
    other_stride: int = 32
    roi_size: int = 14
    bins: int = 7
    poolings: tuple[str, ...] = ("c4", "stride32", "stride16")
    """Region features: RoIAlign, last stage, mean; region means of the two maps. Each is read out by itself."""

    def input_px(self, median_short_px: float) -> int:
        """Side of the mosaic in the network, whatever the images' size."""
        return self.grid * self.tile * self.enlarge


BOXES_LINEAR = Boxes(
    family="boxes",
    name="linear",
    version=1,
    about="the box of the image's object by a linear read-out of the frozen map: mIoU, CorLoc@.5, also on small objects",
    sources=("docs/notes/paper.md D.1, second table", "Deselaers, Alexe, Ferrari 2010 (ECCV): CorLoc"),
    primary="corloc50",
    needs_labels=False,
    needs_training=True,
    floor_points=None,
    ran="smoke: 2,000 + 1,000 images of tiny-imagenet (docs/real-run.md)",
)

REGIONS_MOSAIC = Mosaic(
    family="regions",
    name="mosaic",
    version=1,
    about="classes of objects in 3x3 mosaics from region features at their real boxes; the same tiles alone beside",
    sources=("docs/contracts.md 10", "docs/notes/paper.md D.1, second table"),
    primary="top1",
    needs_labels=True,
    needs_training=True,
    floor_points=None,
    ran="smoke: 2,000 + 1,000 images of tiny-imagenet (docs/real-run.md)",
)

REGIONS_MOSAIC_A = replace(
    REGIONS_MOSAIC,
    name="mosaic-a",
    about="regions/mosaic on half A of the test images: for choosing recipes, asked by its name only",
    half="A",
    ran="never",
    by_family=False,
)

REGIONS_MOSAIC_B = replace(
    REGIONS_MOSAIC,
    name="mosaic-b",
    about="regions/mosaic on half B of the test images: for what is reported, asked by its name only",
    half="B",
    ran="never",
    by_family=False,
)

RECORDS: tuple[Protocol, ...] = (BOXES_LINEAR, REGIONS_MOSAIC, REGIONS_MOSAIC_A, REGIONS_MOSAIC_B)
