"""The evaluation protocols: frozen, versioned records of every number that a score depends on. Torch-free.

A protocol's hash covers its numbers, not its prose; a changed number is a new version, never an edit: a test holds the
hashes. What is asked on the command line (a family, or family/name[@version]) is looked up here.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from insloc_hub.errors import UnknownName
from insloc_hub.files import digest

PROSE = ("about", "sources")


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What every protocol says."""

    family: str
    name: str
    version: int
    about: str
    """One line for lists and help."""
    sources: tuple[str, ...]
    primary: str
    """The metric that reports and warnings look at."""
    needs_labels: bool
    needs_training: bool
    """Whether something is fitted on the training images; else only the test images are looked at."""
    floor_points: float | None
    """Warn where the primary metric is less than this far (0.05 = 5 points) above a random network's; None: never."""
    small_input_px: int = 128
    large_input_px: int = 256
    small_median_px: int = 96
    """Images whose median short side is at most this are small: they are resized to `small_input_px`."""

    @property
    def title(self) -> str:
        """family/name@version."""
        return f"{self.family}/{self.name}@{self.version}"

    def input_px(self, median_short_px: float) -> int:
        """Side of the network input for images with this median short side."""
        return self.small_input_px if median_short_px <= self.small_median_px else self.large_input_px

    def hash(self, precision: str = "fp32") -> str:
        """Hex digest of the numbers; arithmetic other than fp32 is another protocol (contracts.md 7)."""
        numbers: dict[str, Any] = {k: v for k, v in dataclasses.asdict(self).items() if k not in PROSE}
        return digest(numbers if precision == "fp32" else {**numbers, "precision": precision})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOut(Protocol):
    """Frozen features, standardised with training statistics, and a multinomial logistic regression."""

    transform: str = "whole"
    penalties: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    """L2 grid: half of it times the squared weights is added to the mean loss; biases are free."""
    held_out: float = 0.1
    """Share of the training images, per class, that chooses the penalty; then all are used."""
    most_steps: int = 300
    """L-BFGS steps at most."""
    tolerance: float = 1e-4
    """A fit ends where no entry of the scaled gradient is larger (insloc_eval/logistic.py); float32 shakes at a third of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(ReadOut):
    """Whole-image features against class labels."""

    top: int = 5
    """The second metric: the label is among this many best classes."""


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


LINEAR_LOGISTIC = Linear(
    family="linear",
    name="logistic",
    version=1,
    about="classes from pooled features: top-1 and top-5 on labelled images",
    sources=("docs/evaluate.md", "Kornblith, Shlens, Le 2019 (arXiv:1805.08974): L2 chosen on held-out training images"),
    primary="top1",
    needs_labels=True,
    needs_training=True,
    floor_points=None,
)

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
)

PROTOCOLS: tuple[Protocol, ...] = (LINEAR_LOGISTIC, PATCHES_LINEAR, PATCHES_RELOCATE)


def find_protocols(tasks: list[str]) -> list[Protocol]:
    """The protocols meant by `tasks`, each a family or family/name[@version]; none twice. UnknownName: with the nearest.

    >>> [protocol.title for protocol in find_protocols(["patches", "patches/linear@1"])]
    ['patches/linear@1', 'patches/relocate@1']
    """
    found: list[Protocol] = []
    for task in tasks:
        hits = [protocol for protocol in PROTOCOLS if _meant(protocol, task)]
        if not hits:
            raise UnknownName("task", task, known_tasks(), "insloc-eval ls")
        found += [hit for hit in hits if hit not in found]
    return found


def known_tasks() -> list[str]:
    """Everything that `--task` takes."""
    families = sorted({protocol.family for protocol in PROTOCOLS})
    names = [f"{protocol.family}/{protocol.name}" for protocol in PROTOCOLS]
    return [*families, *names, *(protocol.title for protocol in PROTOCOLS)]


def _meant(protocol: Protocol, task: str) -> bool:
    match = re.fullmatch(r"([^/@]+)(?:/([^/@]+)(?:@(\d+))?)?", task)
    if not match:
        return False
    family, name, version = match.groups()
    return (
        protocol.family == family
        and name in (None, protocol.name)
        and ((version is not None and int(version) == protocol.version) or (version is None and _newest(protocol)))
    )


def _newest(protocol: Protocol) -> bool:
    same = [p.version for p in PROTOCOLS if (p.family, p.name) == (protocol.family, protocol.name)]
    return protocol.version == max(same)
