"""Made-up objects and detections of them, for the metrics' tests."""

from typing import Any

import numpy as np
import torch

from insloc_eval.detection.data import Detections, Sample, objects_of

SIDE = 200


def sample(number: int, boxes: list[list[float]], labels: list[int], **fields: Any) -> Sample:
    """A picture of SIDE x SIDE that is never read."""
    return Sample(
        key=f"{number:04d}.jpg", image_id=number, tiles=(), size_wh=(SIDE, SIDE), **objects_of(boxes, labels=labels, **fields)
    )


def answer(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: Any = None) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=masks,
    )


def drawn_boxes(generator: np.random.Generator, n: int, whole: bool = True) -> np.ndarray:
    """XYXY of sides 4 to 150, in whole pixels."""
    low = generator.uniform(0, SIDE - 5, (n, 2))
    high = np.minimum(low + np.exp(generator.uniform(np.log(4), np.log(150), (n, 2))), SIDE)
    boxes = np.concatenate([low, high], axis=1)
    return np.round(boxes) if whole else boxes


def case(seed: int, images: int = 6, classes: int = 3, most: int = 6) -> tuple[list[Sample], list[Detections]]:
    """Objects, some difficult; detections: them moved a little, some twice, others anywhere; scores of few values (ties)."""
    generator = np.random.default_rng(seed)
    samples, found = [], []
    for number in range(1, images + 1):
        n = int(generator.integers(0, most))
        boxes = drawn_boxes(generator, n)
        labels = generator.integers(0, classes, n)
        hard = generator.random(n) < 0.25
        samples.append(sample(number, boxes.tolist(), labels.tolist(), difficult=hard.tolist()))
        again = np.concatenate([np.arange(n), generator.integers(0, n, n // 2)]) if n else np.arange(0)
        moved = boxes[again] + generator.normal(0, 4, (len(again), 4))
        stray = drawn_boxes(generator, int(generator.integers(0, 4)), whole=False)
        rows = np.concatenate([moved, stray])
        rows[:, 2:] = np.maximum(rows[:, 2:], rows[:, :2] + 1)
        kinds = np.concatenate([labels[again], generator.integers(0, classes, len(stray))]).astype(np.int64)
        scores = generator.integers(1, 8, len(rows)) / 8 if seed % 2 else generator.random(len(rows))
        found.append(answer(rows, scores, kinds))
    return samples, found
