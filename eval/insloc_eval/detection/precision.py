"""Matched detections -> average precision of all images, and of any resample of them, without matching again. Torch-free.

Matching looks at one image at a time, so that a resample, in which image i stands c_i times, has the same matches counted
c_i times. Equal copies of a detection follow each other in the order of scores, and only the precision behind the last
of them can be the highest one of its recall; so counts instead of copies give the same curve.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insloc_hub.shapes import Bool, Float, Int

COCO_GRID = np.linspace(0.0, 1.0, 101)  # recall, pycocotools' recThrs
VOC_GRID = np.arange(0.0, 1.1, 0.1)  # VOC 2007's 11 points, .30000000000000004 as in its scorers (paper.md C.1)
GRIDS = {"coco": COCO_GRID, "voc": VOC_GRID}
TINY = np.spacing(1)  # pycocotools' guard against 0 / 0
MOST_CELLS = 4_000_000  # entries of an array at once

Stored = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """The detections of one kind (boxes or masks) in one range of areas against the objects, at several IoU thresholds.

    Detections are in the order in which equal scores are ranked. `t` thresholds, `k` classes, `i` images.
    """

    rule: str
    """Whose recall grid: coco or voc."""
    image: Int[np.ndarray, " n"]
    """Position of the image."""
    label: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    hit: Bool[np.ndarray, "t n"]
    """Found an object that counts."""
    ignored: Bool[np.ndarray, "t n"]
    """Counts neither way: on a difficult object, a crowd, or of another area."""
    objects: Int[np.ndarray, "k i"]
    """Objects that count."""

    def as_arrays(self, name: str) -> Stored:
        """Arrays for an npz; a detection's thresholds are the bits of one number."""
        bits = (1 << np.arange(len(self.hit))).astype(np.uint16)
        return {
            f"{name}:image": self.image.astype(np.int32),
            f"{name}:label": self.label.astype(np.int32),
            f"{name}:score": self.score,
            f"{name}:hit": bits @ self.hit.astype(np.uint16),
            f"{name}:ignored": bits @ self.ignored.astype(np.uint16),
            f"{name}:objects": self.objects.astype(np.int32),
            f"{name}:rule": np.array([self.rule, str(len(self.hit))]),
        }


def from_arrays(stored: Stored, name: str) -> Matches:
    """What `as_arrays` wrote. KeyError: something is missing."""
    rule, count = stored[f"{name}:rule"].tolist()
    bits = 1 << np.arange(int(count))[:, None]
    return Matches(
        rule=rule,
        image=stored[f"{name}:image"].astype(np.int64),
        label=stored[f"{name}:label"].astype(np.int64),
        score=stored[f"{name}:score"].astype(np.float64),
        hit=(stored[f"{name}:hit"].astype(np.int64)[None] & bits) > 0,
        ignored=(stored[f"{name}:ignored"].astype(np.int64)[None] & bits) > 0,
        objects=stored[f"{name}:objects"].astype(np.int64),
    )


def names_of(stored: Stored) -> list[str]:
    """The matches that an npz holds."""
    return [name.removesuffix(":rule") for name in stored if name.endswith(":rule")]


def average_precision(matches: Matches, counts: Int[np.ndarray, "r i"] | None = None) -> Float[np.ndarray, "r t k"]:
    """AP of each resample, threshold and class, 0..1; NaN where the class has no object in it.

    `counts`: how often each image stands in each resample; None: once, in the one resample.
    """
    if counts is None:
        counts = np.ones((1, matches.objects.shape[1]), dtype=np.int64)
    grid = GRIDS[matches.rule]
    order = np.lexsort((-matches.score, matches.label))  # stable: equal scores keep their order
    ends = np.searchsorted(matches.label[order], np.arange(len(matches.objects) + 1))
    found = np.full((len(counts), len(matches.hit), len(matches.objects)), np.nan)
    objects = counts @ matches.objects.T  # [r k]
    for label in np.flatnonzero(matches.objects.sum(axis=1)):
        mine = order[ends[label] : ends[label + 1]]
        for rows in _blocks(len(counts), len(mine)):
            weights = counts[rows][:, matches.image[mine]]  # [r n]
            for t in range(len(matches.hit)):
                areas = _area(matches.hit[t, mine], matches.ignored[t, mine], weights, objects[rows, label], grid)
                found[rows, t, label] = areas
    found[np.broadcast_to((objects == 0)[:, None], found.shape)] = np.nan
    return found


def mean_precision(table: Float[np.ndarray, "r t k"]) -> Float[np.ndarray, " r"]:
    """The mean over thresholds and over the classes with an object; NaN where no class has one."""
    known = ~np.isnan(table)
    number = known.sum(axis=(1, 2))
    total = np.where(known, table, 0.0).sum(axis=(1, 2))
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _area(
    hit: Bool[np.ndarray, " n"],
    ignored: Bool[np.ndarray, " n"],
    weights: Int[np.ndarray, "r n"],
    objects: Int[np.ndarray, " r"],
    grid: Float[np.ndarray, " g"],
) -> Float[np.ndarray, " r"]:
    """Mean over the recall grid of the highest precision at that recall or more; detections by descending score.

    Only hits change the recall and raise the precision, so the curve is looked at behind each hit.
    """
    at = np.flatnonzero(hit)
    if not len(at):
        return np.zeros(len(weights))
    right = np.cumsum(weights[:, at], axis=1)
    counted = np.cumsum(weights * ~ignored, axis=1)[:, at]
    precision = right / (counted + TINY)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / np.maximum(objects, 1)[:, None]
    reached = np.searchsorted(grid, recall.ravel(), side="right").reshape(recall.shape)  # grid points at most this recall
    steps = np.diff(reached, axis=1, prepend=0)
    means: Float[np.ndarray, " r"] = (highest * steps).sum(axis=1) / len(grid)
    return means


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, MOST_CELLS // max(columns, 1))
    for start in range(0, rows, size):
        yield slice(start, start + size)
