"""What every evaluation protocol says: a frozen, versioned record of the numbers that a score depends on. Torch-free.

A protocol's hash covers its numbers, not its prose; a changed number is a new version, never an edit: a test holds the
hashes.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from insloc_hub.files import digest

PROSE = ("about", "sources", "ran", "by_family")
RAN = ("never", "smoke", "full")


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What every protocol says."""

    needs_boxes: ClassVar[bool] = False
    """Whether each image must have an annotated object."""
    needs_detections: ClassVar[bool] = False
    """Whether a detector is trained: its seeds are replicates of an arm, and no random network is judged beside unasked."""
    same_question: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of metrics that ask the same of different features: where their signs differ, a comparison says so."""
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
    ran: str = "never"
    """How far we have run it: never; smoke: on what; full: on what. The page that has the figures is named there."""
    by_family: bool = True
    """Whether `--task FAMILY` means it too; False: it takes hours without a GPU, and is asked by its name only."""

    def __post_init__(self) -> None:
        """ValueError: `ran` begins with none of the three words."""
        if self.ran.split(":")[0] not in RAN:
            raise ValueError(f"ran must begin with one of {', '.join(RAN)}; got {self.ran!r}")

    @property
    def title(self) -> str:
        """family/name@version."""
        return f"{self.family}/{self.name}@{self.version}"

    def input_px(self, median_short_px: float) -> int:
        """Side of the network input for images with this median short side."""
        return self.small_input_px if median_short_px <= self.small_median_px else self.large_input_px

    def hash(self, precision: str = "fp32") -> str:
        """Hex digest of the numbers; arithmetic other than fp32 is another protocol (contracts.md 7)."""
        numbers = self.numbers()
        return digest(numbers if precision == "fp32" else {**numbers, "precision": precision})

    def numbers(self) -> dict[str, Any]:
        """Everything that a score depends on, by name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in PROSE}


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
