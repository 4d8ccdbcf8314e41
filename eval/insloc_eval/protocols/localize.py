"""Protocols that ask where something is. Their constants, with sources (paper.md is docs/notes/paper.md)."""

from dataclasses import dataclass

from insloc_eval.protocols.record import Protocol, ReadOut


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches(ReadOut):
    """Which cell of a grid over the image is this?"""

    grid: int = 3
    bins: int = 7
    """Of the aligned, adaptive RoIAlign whose mean is a cell's feature, on the last map."""


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


PATCHES_LINEAR = Patches(
    family="patches",
    name="linear",
    version=1,
    about="which cell of a 3x3 grid is this, in context; a diagnostic: padding alone can solve it",
    sources=("docs/paper.md D.1, 3x3 grid in context",),
    primary="top1",
    needs_labels=False,
    needs_training=True,
    floor_points=0.05,
    ran="smoke: the procedural world of `insloc demo`",
)

PATCHES_RELOCATE = Relocate(
    family="patches",
    name="relocate",
    version=1,
    about="where in this photograph is this patch, from another view of it: the localization figure",
    sources=("docs/paper.md D.1, relocate", "docs/paper.md A.1.1, the keep-aspect rule"),
    primary="acc50",
    needs_labels=False,
    needs_training=False,
    floor_points=0.05,
    ran="smoke: the procedural world of `insloc demo`",
)

RECORDS: tuple[Protocol, ...] = (PATCHES_LINEAR, PATCHES_RELOCATE)
