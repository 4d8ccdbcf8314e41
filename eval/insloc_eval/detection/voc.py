"""The VOC 2007 metric as detectron2 reports it (paper.md C.1): which detection hits which object at IoU .50, .55, .. .95.

Boxes are compared as VOC has them, integers from 1 with both ends inside (widths with + 1). A detection takes the object
that it overlaps most and must overlap it by more than the threshold; a second one on that object is wrong; one on a
difficult object counts neither way. AP from these is precision.py's, on 11 points.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from insloc_eval.detection.data import Detections, Sample
from insloc_eval.detection.precision import Matches
from insloc_hub.shapes import Bool, Float, Int

THRESHOLDS = np.arange(50, 100, 5) / 100
FROM_1 = np.array([1.0, 1.0, 0.0, 0.0])  # an edge on the left or above is the pixel behind it


def match_voc(samples: Sequence[Sample], found: Sequence[Detections], classes: int, *, text: bool = True) -> Matches:
    """`text`: scores to 3 decimals and corners to 1, as in the files that detectron2 hands to its scorer."""
    rows = [_rows(one, text) for one in found]
    number = sum(len(scores) for _, scores, _ in rows)
    hit, ignored = (np.zeros((len(THRESHOLDS), number), dtype=np.bool_) for _ in range(2))
    objects = np.zeros((classes, len(samples)), dtype=np.int64)
    for image, at, label, sample, boxes in _pairs(samples, rows, classes):
        true, skipped = _objects(sample, label)
        objects[label, image] = (~skipped).sum()
        if len(true):
            hit[:, at], ignored[:, at] = _match(boxes, true, skipped)
    return Matches(
        rule="voc",
        image=np.repeat(np.arange(len(samples)), [len(scores) for _, scores, _ in rows]),
        label=np.concatenate([labels for _, _, labels in rows]) if rows else np.zeros(0, dtype=np.int64),
        score=np.concatenate([scores for _, scores, _ in rows]) if rows else np.zeros(0),
        hit=hit,
        ignored=ignored,
        objects=objects,
    )


def _pairs(
    samples: Sequence[Sample], rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]], classes: int
) -> Iterator[tuple[int, np.ndarray, int, Sample, np.ndarray]]:
    """Image, positions among all detections by descending score, class, sample, and the boxes there."""
    start = 0
    for image, (sample, (boxes, scores, labels)) in enumerate(zip(samples, rows, strict=True)):
        for label in sorted({*labels.tolist(), *sample.labels.tolist()}):
            mine = np.flatnonzero(labels == label)
            mine = mine[np.argsort(-scores[mine], kind="stable")]
            yield image, start + mine, label, sample, boxes[mine]
        start += len(scores)


def _rows(one: Detections, text: bool) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Boxes with corners from 1, scores, labels; float64."""
    boxes = one.boxes.numpy().astype(np.float64) + FROM_1
    scores = one.scores.numpy().astype(np.float64)
    if text:
        boxes = np.array([[float(f"{x:.1f}") for x in row] for row in boxes.tolist()]).reshape(-1, 4)
        scores = np.array([float(f"{x:.3f}") for x in scores.tolist()])
    return boxes, scores, one.labels.numpy()


def _objects(sample: Sample, label: int) -> tuple[Float[np.ndarray, "m 4"], Bool[np.ndarray, " m"]]:
    """The objects of a class with corners from 1, and which of them count neither way."""
    mine = sample.labels.numpy() == label
    boxes = sample.boxes.numpy()[mine].astype(np.float64) + FROM_1
    return boxes, (sample.difficult | sample.crowd).numpy()[mine]


def _match(
    boxes: Float[np.ndarray, "n 4"], true: Float[np.ndarray, "m 4"], skipped: Bool[np.ndarray, " m"]
) -> tuple[Bool[np.ndarray, "t n"], Bool[np.ndarray, "t n"]]:
    """Hits and ignored ones of one image and class, the boxes by descending score."""
    overlaps = _overlaps(boxes, true)
    best = overlaps.argmax(axis=1)
    over = overlaps.max(axis=1) > THRESHOLDS[:, None]  # [t n]
    ignored = over & skipped[best]
    candidate = over & ~skipped[best]
    on_it = candidate[:, :, None] & (best[:, None] == np.arange(len(true)))  # [t n m]
    first = on_it & (np.cumsum(on_it, axis=1) == 1)
    return first.any(axis=2), ignored


def _overlaps(boxes: Float[np.ndarray, "n 4"], true: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """IoU with both ends inside."""
    low = np.maximum(boxes[:, None, :2], true[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], true[None, :, 2:])
    inside = np.maximum(high - low + 1, 0).prod(axis=2)
    areas = [(one[:, 2:] - one[:, :2] + 1).prod(axis=1) for one in (boxes, true)]
    overlaps: Float[np.ndarray, "n m"] = inside / (areas[0][:, None] + areas[1][None] - inside)
    return overlaps
