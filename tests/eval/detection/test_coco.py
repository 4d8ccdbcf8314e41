"""COCO's metric: the numbers are those of pycocotools' summarize(), boxes and masks, all sizes, crowds among them."""

import contextlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scored import SIDE, answer, case, drawn_boxes, sample

from insloc_eval.detection.coco import AREAS, match_coco
from insloc_eval.detection.data import Detections, Sample
from insloc_eval.detection.precision import average_precision, mean_precision
from insloc_eval.detection.split import load_detection_split
from insloc_eval.protocols.detection import QUICK_MASK

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def ours(samples: list[Sample], found: list[Detections], classes: int, kind: str) -> list[float]:
    matches = match_coco(samples, found, classes, kind)
    tables = {area: average_precision(matches[area]) for area in AREAS}
    rows = [tables["all"], tables["all"][:, :1], tables["all"][:, 5:6], *(tables[area] for area in AREAS[1:])]
    return [float(mean_precision(row)[0]) for row in rows]


def summarized(content: dict, results: list[dict], kind: str) -> list[float]:
    """pycocotools from end to end; NaN where it says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float("nan") if value == -1 else float(value) for value in judge.stats[:6]]


def results_of(samples: list[Sample], found: list[Detections], ids: list[int], kind: str) -> list[dict]:
    rows = []
    for one, answered in zip(samples, found, strict=True):
        for place in range(len(answered.boxes)):
            x1, y1, x2, y2 = answered.boxes[place].double().tolist()
            row = {"image_id": one.image_id, "category_id": ids[int(answered.labels[place])]}
            row["score"] = float(answered.scores[place])
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1]} if kind == "bbox" else {"segmentation": answered.masks[place]}
            rows.append(row)
    return rows


def content_of(samples: list[Sample], classes: int) -> dict:
    annotations = []
    for one in samples:
        for place in range(len(one.boxes)):
            x1, y1, x2, y2 = one.boxes[place].double().tolist()
            row = {"id": len(annotations) + 1, "image_id": one.image_id, "category_id": int(one.labels[place]) + 1}
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(one.areas[place]), "iscrowd": int(one.crowd[place])}
            annotations.append(row)
    images = [{"id": one.image_id, "width": SIDE, "height": SIDE} for one in samples]
    return {"images": images, "annotations": annotations, "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)]}


@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_made_up_pictures_score_as_summarize_says(seed: int) -> None:
    samples, found = case(seed, images=8)
    generator = np.random.default_rng(seed)
    none = [np.zeros(len(one.boxes), dtype=bool) for one in samples]
    crowds = [generator.random(len(one.boxes)) < 0.2 for one in samples]
    samples = [
        replace(one, difficult=one.difficult.new_tensor(hard), crowd=one.crowd.new_tensor(crowd))
        for one, hard, crowd in zip(samples, none, crowds, strict=True)
    ]
    known = summarized(content_of(samples, 3), results_of(samples, found, [1, 2, 3], "bbox"), "bbox")
    assert ours(samples, found, 3, "bbox") == pytest.approx(known, abs=1e-12, nan_ok=True)


def test_a_hit_on_a_difficult_object_counts_neither_way() -> None:
    truth = [[10, 10, 60, 60], [100, 100, 160, 160]]
    both = answer(np.array(truth), np.array([0.9, 0.8]), np.zeros(2))
    first = answer(np.array(truth[:1]), np.array([0.9]), np.zeros(1))
    other = sample(2, [], [])
    nothing = answer(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    hard = [sample(1, truth, [0, 0], difficult=[False, True]), other]
    assert ours(hard, [both, nothing], 1, "bbox")[0] == ours(hard, [first, nothing], 1, "bbox")[0] == pytest.approx(1)
    plain = [sample(1, truth, [0, 0]), other]
    assert ours(plain, [first, nothing], 1, "bbox")[0] == pytest.approx(51 / 101)


def test_nothing_found_is_zero() -> None:
    nothing = answer(np.zeros((0, 4)), np.zeros(0), np.zeros(0), masks=())
    box = sample(1, [[10, 10, 60, 60]], [0], masks=[[[10, 10, 60, 10, 60, 60]]])
    assert ours([box], [nothing], 2, "bbox")[:3] == ours([box], [nothing], 2, "segm")[:3] == [0, 0, 0]


def perturbed(samples: list[Sample], seed: int, classes: int) -> list[Detections]:
    """The objects moved a little, with their masks moved along, and strays; of some another class."""
    generator = np.random.default_rng(seed)
    found = []
    for one in samples:
        w, h = one.size_wh
        n = len(one.boxes)
        boxes = one.boxes.numpy() + generator.normal(0, 0.05, (n, 4)) * np.repeat(one.areas.numpy()[:, None] ** 0.5, 4, 1)
        boxes = np.concatenate([boxes, drawn_boxes(generator, 3)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        masks = []
        for place in range(len(boxes)):
            x1, y1, x2, y2 = np.clip(boxes[place], 0, [w, h, w, h]).astype(int)
            pixels = np.zeros((h, w), dtype=np.uint8)
            pixels[y1 : y2 + 1, x1 : x2 + 1] = 1
            if place < n and one.masks is not None:
                moved = np.roll(pixels_of(one.masks[place], h, w), generator.integers(-3, 4, 2), (0, 1))
                pixels = moved if generator.random() < 0.8 else pixels
            runs = coco_mask.encode(np.asfortranarray(pixels))
            masks.append({"size": list(runs["size"]), "counts": runs["counts"].decode()})
        labels = np.concatenate([one.labels.numpy(), generator.integers(0, classes, 3)])
        labels = np.where(generator.random(len(labels)) < 0.1, generator.integers(0, classes, len(labels)), labels)
        found.append(answer(boxes, generator.random(len(boxes)), labels, tuple(masks)))
    return found


def pixels_of(mask, h: int, w: int) -> np.ndarray:
    if isinstance(mask, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(mask, h, w)))
    return coco_mask.decode(coco_mask.frPyObjects(mask, h, w))


def test_masks_of_made_up_pictures_score_as_summarize_says() -> None:
    boxes = [[[10, 10, 60, 60], [70, 20, 190, 170]], [[5, 90, 30, 120], [80, 80, 180, 130], [20, 20, 28, 26]]]
    samples = []
    for number, rows in enumerate(boxes, 1):
        polygons = [[[x1, y1, x2, y1, x2, y2]] for x1, y1, x2, y2 in rows]  # half of each box
        areas = [(x2 - x1) * (y2 - y1) / 2 for x1, y1, x2, y2 in rows]
        samples.append(sample(number, rows, [0, 1, 0][: len(rows)], masks=polygons, areas=areas))
    found = perturbed(samples, 1, 2)
    content = content_of(samples, 2)
    for row, mask in zip(content["annotations"], [mask for one in samples for mask in one.masks], strict=True):
        row["segmentation"] = mask
    known = summarized(content, results_of(samples, found, [1, 2], "segm"), "segm")
    assert ours(samples, found, 2, "segm") == pytest.approx(known, abs=1e-12, nan_ok=True) and known[0] > 0.1


def test_the_shared_scenes_score_as_summarize_says(insloc_data, tmp_path) -> None:
    with tarfile.open(insloc_data / "coco-mini" / "coco-mini.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    split = load_detection_split(tmp_path / "coco-mini", QUICK_MASK)
    content = json.loads((tmp_path / "coco-mini" / "annotations" / "instances_val2017.json").read_text())
    ids = sorted(one["id"] for one in content["categories"])
    found = perturbed(list(split.ask), 0, 80)
    for kind in ("bbox", "segm"):
        known = summarized(json.loads(json.dumps(content)), results_of(list(split.ask), found, ids, kind), kind)
        assert ours(list(split.ask), found, 80, kind) == pytest.approx(known, abs=1e-12)
        assert 0.2 < known[0] < 0.9
