"""Scoring detections: the judge's way to COCO's numbers against calling pycocotools directly.

    python benchmarks/detection_metrics.py [--images 5000] [--repeats 5]

Made-up objects of 80 classes and detections of them on as many pictures as val2017 has. Both ways begin at the detector's
tensors and end at the six numbers of summarize(); they must be equal to 1e-12 before a time is printed. In alternation in
one run, in processor seconds, since others want the cores too; the ratio of each pair of repeats, its median and a 95 %
bootstrap interval. What the bootstrap over images costs on top (1,000 samples) is a second line: pycocotools has no such
thing, so `other` is its own accumulate() called once for each of three samples, and that times 1,000.
"""

import argparse
import contextlib
import io
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from insloc_eval.detection.coco import AREAS, match_coco
from insloc_eval.detection.data import Detections, Sample, objects_of
from insloc_eval.detection.precision import Matches, average_precision, mean_precision
from insloc_eval.set_metrics import REPEATS as SAMPLES
from insloc_eval.set_metrics import samples as drawn_samples

CLASSES = 80
SIDE = 640
REACH = 0.95
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> None:
    """Print the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    ask = parser.parse_args()
    samples, found = task(ask.images)
    ours, other = (lambda: numbers(samples, found)), (lambda: summarized(samples, found))
    times, gap = [], 0.0
    for _ in range(ask.repeats):
        (mine, mine_s), (theirs, theirs_s) = timed(ours), timed(other)
        gap = max(gap, float(np.abs(np.array(mine) - np.array(theirs)).max()))
        times.append((mine_s, theirs_s))
    if gap > 1e-12:
        raise SystemExit(f"the two ways differ by {gap}")
    count = sum(len(one.boxes) for one in found)
    case = f"{ask.images} images, {count} detections, {CLASSES} classes; numbers equal to {max(gap, 1e-16):.0e}"
    report(case, ask.images, np.array(times), "images/s of processor time", REACH)
    matches = match_coco(samples, found, CLASSES, "bbox")["all"]
    bootstrap(samples, found, matches, ask.repeats)


def task(images: int) -> tuple[list[Sample], list[Detections]]:
    """About 7 objects a picture, each found with some error by some detections, and strays: about 25 detections a picture."""
    generator = np.random.default_rng(0)
    samples, found = [], []
    for number in range(1, images + 1):
        n = int(generator.poisson(7))
        low = generator.uniform(0, SIDE - 10, (n, 2))
        sides = np.exp(generator.uniform(np.log(8), np.log(300), (n, 2)))
        boxes = np.concatenate([low, np.minimum(low + sides, SIDE)], axis=1)
        labels = generator.integers(0, CLASSES, n)
        objects = objects_of(boxes.tolist(), labels=labels.tolist())
        samples.append(Sample(key=str(number), image_id=number, tiles=(), size_wh=(SIDE, SIDE), **objects))
        again = np.repeat(np.arange(n), 2)
        near = boxes[again] + generator.normal(0, 0.1, (2 * n, 4)) * (boxes[again][:, 2:] - boxes[again][:, :2]).repeat(
            2, axis=1
        )
        corner = generator.uniform(0, SIDE - 10, (11, 2))
        rows = np.concatenate([near, np.concatenate([corner, corner + generator.uniform(4, 200, (11, 2))], axis=1)])
        rows[:, 2:] = np.maximum(rows[:, 2:], rows[:, :2] + 1)
        kinds = np.concatenate([labels[again], generator.integers(0, CLASSES, 11)])
        found.append(
            Detections(
                boxes=torch.tensor(rows, dtype=torch.float32),
                scores=torch.tensor(generator.random(len(rows)), dtype=torch.float32),
                labels=torch.tensor(kinds),
                masks=None,
            )
        )
    return samples, found


def numbers(samples: list[Sample], found: list[Detections]) -> list[float]:
    """Ours."""
    matches = match_coco(samples, found, CLASSES, "bbox")
    tables = {area: average_precision(matches[area]) for area in AREAS}
    rows = [tables["all"], tables["all"][:, :1], tables["all"][:, 5:6], *(tables[area] for area in AREAS[1:])]
    return [float(mean_precision(row)[0]) for row in rows]


def summarized(samples: list[Sample], found: list[Detections]) -> list[float]:
    """pycocotools' own example, from the same tensors."""
    judge = evaluated(samples, found)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats[:6]]


def evaluated(samples: list[Sample], found: list[Detections]) -> COCOeval:
    """As far as evaluate()."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for sample, answer in zip(samples, found, strict=True):
        for (x1, y1, x2, y2), label, area in zip(
            sample.boxes.double().tolist(), sample.labels.tolist(), sample.areas.tolist(), strict=True
        ):
            row = {"image_id": sample.image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append({**row, "id": len(annotations) + 1, "area": area, "iscrowd": 0})
        for (x1, y1, x2, y2), score, label in zip(
            answer.boxes.double().tolist(), answer.scores.tolist(), answer.labels.tolist(), strict=True
        ):
            row = {"image_id": sample.image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            results.append({**row, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": sample.image_id, "width": SIDE, "height": SIDE} for sample in samples],
            "annotations": annotations,
            "categories": [{"id": number + 1, "name": str(number)} for number in range(CLASSES)],
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
    return judge


def bootstrap(samples: list[Sample], found: list[Detections], matches: Matches, repeats: int) -> None:
    """AP, AP50 and AP75 of 1,000 samples of the images, against accumulate() a thousand times."""
    counts = drawn_samples(len(samples), SAMPLES)
    judge = evaluated(samples, found)
    judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
    judge.params.maxDets = judge.params.maxDets[-1:]

    def accumulate() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            judge.accumulate()

    times = []
    for _ in range(min(3, repeats)):
        mine, theirs = timed(lambda: average_precision(matches, counts))[1], timed(accumulate)[1]
        times.append((mine, theirs * SAMPLES))
    report(f"AP of {SAMPLES} samples of {len(samples)} images", SAMPLES, np.array(times), "samples/s of processor time", 1.0)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its processor seconds."""
    start = time.process_time()
    value = work()
    return value, time.process_time() - start


def report(case: str, count: int, times: np.ndarray, unit: str, reach: float) -> None:
    """Print a JSON line."""
    ratios = times[:, 1] / times[:, 0]
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    line = {
        "benchmark": "detection_metrics",
        "case": case,
        "ours": round(count / float(np.median(times[:, 0])), 1),
        "other": round(count / float(np.median(times[:, 1])), 1),
        "unit": unit,
        "ratio": round(float(np.median(ratios)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "reach": reach,
        "holds": bool(low >= reach),
        "machine": f"{platform.machine()}, 1 thread, numpy {np.__version__}",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
