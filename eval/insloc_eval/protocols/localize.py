"""Protocols that ask where something is. Their constants, with sources (paper.md is docs/notes/paper.md)."""

import math
from dataclasses import dataclass, replace

from insloc_eval.protocols.record import Protocol, ReadOut


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches(ReadOut):
    """Which cell of a grid over the image is this?"""

    grid: int = 3
    bins: int = 7
    """Of the aligned, adaptive RoIAlign whose mean is a cell's feature, on the last map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesC4(Patches):
    """The same question to the last stage, run on the RoIAlign grid of each cell as a C4 detector runs it."""

    roi_at_256: int = 14
    """Side of the RoIAlign grid on the stride-16 map at a 256 px input; in proportion at others, the next even number."""

    def roi_size(self, size_px: int) -> int:
        """Side of the grid at an input of this size.

        >>> PATCHES_LINEAR_C4.roi_size(128), PATCHES_LINEAR_C4.roi_size(256)
        (8, 14)
        """
        return 2 * math.ceil(self.roi_at_256 * size_px / 256 / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesCut(Patches):
    """The same question where the network sees a part of the picture only, cut out and resized."""

    parts: int
    """The picture is divided into parts x parts cells; those with whole windows inside are asked: grid x grid of them."""
    span: int
    """A window is span x span cells around its own; the feature is that cell's region mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Relocate(Protocol):
    """Where in this photograph is this patch? Lengths are shares of the input side S."""

    stride: int = 16
    other_stride: int = 32
    side: tuple[float, float] = (1 / 4, 1 / 2)
    """The two bounds of a patch are integers uniform in [low S, high S)."""
    aspect: tuple[float, float] = (0.5, 2.0)
    """Width over height, log-uniform."""
    edge: float = 0.1
    """The view moves every edge by up to this share of its side."""
    rescale: tuple[float, float] = (0.7, 1.4)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Brightness, contrast, saturation, hue, in a random order, always."""
    centres: int = 16
    """Candidate centres along each axis."""
    ratios: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Height over width."""
    scales: int = 5
    per_octave: int = 3
    """Candidate sides are (S/4) 2^(t / per_octave), t = 0 .. scales - 1."""
    bins: int = 7
    hit_iou: float = 0.5
    tie: float = 1e-6
    """Scores closer than this to the best are ties, won by the lowest index: below it is rounding, not the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Composite(Protocol):
    """Where was this instance pasted? Pixels of a fixed canvas."""

    canvas: int = 256
    bounds: tuple[int, int]
    """The two bounds of the pasted crop's sides, both included (paper.md A.1.1)."""
    stride: int = 16
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Brightness, contrast, saturation, hue of the coloured view, in a random order, always."""
    centres: int = 32
    """Candidate centres along each axis."""
    ratios: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Height over width."""
    scales: int = 9
    per_octave: int = 4
    """Candidate sides are (canvas / 4) 2^(t / per_octave), t = 0 .. scales - 1."""
    bins: int = 7
    hits: tuple[float, ...] = (0.5, 0.7)
    tie: float = 1e-6
    """Scores closer than this to the best are ties, won by the lowest index."""
    constant: tuple[int, int, int, int] = (81, 81, 175, 175)
    """The constant box that is printed beside."""

    def input_px(self, median_short_px: float) -> int:
        """The canvas, whatever the images' size."""
        return self.canvas


PATCHES_LINEAR = Patches(
    family="patches",
    name="linear",
    version=1,
    about="which cell of a 3x3 grid is this, in context; a diagnostic: padding alone can solve it",
    sources=("docs/notes/paper.md D.1, 3x3 grid in context",),
    primary="top1",
    needs_labels=False,
    needs_training=True,
    floor_points=0.05,
    ran="smoke: 400 + 500 images of tiny-imagenet (docs/real-run.md)",
)

PATCHES_LINEAR_C4 = PatchesC4(
    family="patches",
    name="linear-c4",
    version=1,
    about="the same on the last stage of each cell, as a C4 detector runs it; a diagnostic",
    sources=(
        "docs/notes/paper.md D.1, 3x3 grid in context",
        "docs/notes/paper.md A.6, contracts.md 12: RoIAlign grid",
    ),
    primary="top1",
    needs_labels=False,
    needs_training=True,
    floor_points=0.05,
    ran="smoke: 400 + 500 images of tiny-imagenet (docs/real-run.md)",
)

PATCHES_ISOLATED = PatchesCut(
    family="patches",
    name="isolated",
    version=1,
    about="the same with each cell cut out and encoded alone: near what content alone allows; a diagnostic",
    sources=("docs/notes/paper.md D.1, isolated cells",),
    primary="top1",
    needs_labels=False,
    needs_training=True,
    floor_points=0.05,
    ran="smoke: 400 + 500 images of tiny-imagenet (docs/real-run.md)",
    parts=3,
    span=1,
)

PATCHES_WINDOW = PatchesCut(
    family="patches",
    name="window",
    version=1,
    about="the same with each cell in a window of its own surroundings, never at a border; a diagnostic",
    sources=("docs/notes/paper.md D.1, window cells",),
    primary="top1",
    needs_labels=False,
    needs_training=True,
    floor_points=0.05,
    ran="smoke: 400 + 500 images of tiny-imagenet (docs/real-run.md)",
    parts=5,
    span=3,
)

PATCHES_RELOCATE = Relocate(
    family="patches",
    name="relocate",
    version=1,
    about="where in this photograph is this patch, from another view of it: the localization figure",
    sources=("docs/notes/paper.md D.1, relocate", "docs/notes/paper.md A.1.1, the keep-aspect rule"),
    primary="acc50",
    needs_labels=False,
    needs_training=False,
    floor_points=0.05,
    ran="smoke: 400 + 500 images of tiny-imagenet (docs/real-run.md)",
)

PATCHES_COMPOSITE = Composite(
    family="patches",
    name="composite",
    version=1,
    about="where was this instance pasted, from another view of it: InsLoc's own pretext, never evidence alone",
    sources=("docs/notes/paper.md D.2, small range", "docs/notes/paper.md A.1.1-A.1.3, the composite"),
    primary="acc50",
    needs_labels=False,
    needs_training=False,
    floor_points=0.05,
    ran="smoke: 500 images of tiny-imagenet (docs/real-run.md)",
    bounds=(64, 127),
)

PATCHES_COMPOSITE_LARGE = replace(
    PATCHES_COMPOSITE,
    name="composite-large",
    about="the same with the crops of the released recipe: a box in the middle beats the views, so asked by name only",
    sources=("docs/notes/paper.md D.2, large range", "docs/notes/paper.md A.1.1-A.1.3, the composite"),
    bounds=(128, 254),
    ran="never",
    by_family=False,
)

RECORDS: tuple[Protocol, ...] = (
    PATCHES_LINEAR,
    PATCHES_LINEAR_C4,
    PATCHES_ISOLATED,
    PATCHES_WINDOW,
    PATCHES_RELOCATE,
    PATCHES_COMPOSITE,
    PATCHES_COMPOSITE_LARGE,
)
