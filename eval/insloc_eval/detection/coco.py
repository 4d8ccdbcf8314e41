"""COCO's metric: pycocotools matches detections to objects; precision.py makes AP of all images and of samples of them."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from insloc_eval.detection.data import Detections, Sample
from insloc_eval.detection.precision import Matches

KINDS = ("bbox", "segm")
AREAS = ("all", "small", "medium", "large")  # pycocotools' areaRngLbl: bounds 32^2 and 96^2 pixels


def match_coco(
    samples: Sequence[Sample], found: Sequence[Detections], classes: int, kind: str, most: int = 100
) -> dict[str, Matches]:
    """The matches in each of AREAS; image ids must rise. `kind`: one of KINDS. `most`: looked at, an image and class."""
    ids = [sample.image_id for sample in samples]
    assert ids == sorted(set(ids))  # pycocotools sorts them
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        judge = COCOeval(_objects(samples, classes, kind), _answers(samples, found, kind), kind)
        judge.params.maxDets = [most]
        judge.params.imgIds = ids
        judge.params.catIds = list(range(1, classes + 1))
        judge.evaluate()
    return {area: _matches(judge, number, len(samples), classes) for number, area in enumerate(AREAS)}


def _matches(judge: COCOeval, area: int, images: int, classes: int) -> Matches:
    """From pycocotools' list [classes, areas, images]; image ids rise with the images, as it sorts them."""
    objects = np.zeros((classes, images), dtype=np.int64)
    cells: list[tuple[int, int, dict[str, Any]]] = []
    for label in range(classes):
        start = (label * len(AREAS) + area) * images
        for image, one in enumerate(judge.evalImgs[start : start + images]):
            if one is not None:
                objects[label, image] = len(one["gtIgnore"]) - np.count_nonzero(one["gtIgnore"])
                if one["dtScores"]:
                    cells.append((label, image, one))
    thresholds = len(judge.params.iouThrs)
    sizes = [len(one["dtScores"]) for _, _, one in cells]
    ignored = _joined([one["dtIgnore"] for _, _, one in cells], thresholds).astype(np.bool_)
    return Matches(
        rule="coco",
        image=np.repeat(np.array([image for _, image, _ in cells], dtype=np.int64), sizes),
        label=np.repeat(np.array([label for label, _, _ in cells], dtype=np.int64), sizes),
        score=np.array([score for _, _, one in cells for score in one["dtScores"]], dtype=np.float64),
        hit=(_joined([one["dtMatches"] for _, _, one in cells], thresholds) > 0) & ~ignored,
        ignored=ignored,
        objects=objects,
    )


def _joined(tables: list[np.ndarray], thresholds: int) -> np.ndarray:
    return np.concatenate(tables, axis=1) if tables else np.zeros((thresholds, 0))


def _objects(samples: Sequence[Sample], classes: int, kind: str) -> COCO:
    judge = COCO()
    rows: list[dict[str, Any]] = []
    for sample in samples:
        masks = sample.masks if kind == "segm" else None
        areas = sample.areas.masked_fill(sample.difficult, -1.0)  # below every range: a hit on it counts neither way
        crowd: list[int] = sample.crowd.int().tolist()
        table = zip(sample.boxes.double().tolist(), sample.labels.tolist(), areas.tolist(), crowd, strict=True)
        for place, ((x1, y1, x2, y2), label, area, many) in enumerate(table):
            row = {"id": len(rows) + 1, "image_id": sample.image_id, "category_id": label + 1, "iscrowd": many}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
            rows.append(row if masks is None else {**row, "segmentation": masks[place]})
    judge.dataset = {
        "images": _pictures(samples),
        "annotations": rows,
        "categories": [{"id": number + 1} for number in range(classes)],
    }
    judge.createIndex()
    return judge


def _answers(samples: Sequence[Sample], found: Sequence[Detections], kind: str) -> COCO:
    """What COCO.loadRes makes of a list of results; an empty one too, which that refuses."""
    judge = COCO()
    rows: list[dict[str, Any]] = []
    for sample, one in zip(samples, found, strict=True):
        masks = one.masks if kind == "segm" else None
        sides = one.boxes.double().numpy()
        sides = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1)
        table = zip(sides.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
        for place, (box, score, label) in enumerate(table):
            row = {"id": len(rows) + 1, "image_id": sample.image_id, "category_id": label + 1, "score": score, "iscrowd": 0}
            row |= {"bbox": box, "area": box[2] * box[3]}
            if masks is not None:  # a mask's area is its pixels; one by one, since pycocotools fails on more than 255 at once
                row |= {"segmentation": masks[place], "area": int(coco_mask.area(masks[place]))}
            rows.append(row)
    judge.dataset = {"images": _pictures(samples), "annotations": rows, "categories": []}
    judge.createIndex()
    return judge


def _pictures(samples: Sequence[Sample]) -> list[dict[str, int]]:
    return [{"id": one.image_id, "width": one.size_wh[0], "height": one.size_wh[1]} for one in samples]
