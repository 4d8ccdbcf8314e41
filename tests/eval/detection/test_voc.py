"""The VOC07 metric: detectron2's own numbers, and the definition written out detection by detection."""

from pathlib import Path

import numpy as np
import pytest
from scored import answer, case, sample

from insloc_eval.detection.data import Detections, Sample
from insloc_eval.detection.precision import average_precision
from insloc_eval.detection.voc import THRESHOLDS, match_voc

GOLDEN = np.load(Path(__file__).parents[2] / "assets" / "voc_eval.npz")


def golden_task() -> tuple[list[Sample], list[Detections]]:
    samples, found = [], []
    for image in range(int(max(GOLDEN["gt"][:, 0].max(), GOLDEN["det"][:, 0].max())) + 1):
        rows = GOLDEN["gt"][GOLDEN["gt"][:, 0] == image]
        boxes = (rows[:, 2:6] - [1, 1, 0, 0]).astype(float).tolist()
        samples.append(sample(image + 1, boxes, rows[:, 1].tolist(), difficult=(rows[:, 6] > 0).tolist()))
        rows = GOLDEN["det"][GOLDEN["det"][:, 0] == image]
        found.append(answer(rows[:, 3:7], rows[:, 2], rows[:, 1]))
    return samples, found


def test_detectron2_s_own_numbers_come_out() -> None:
    table = 100 * average_precision(match_voc(*golden_task(), 4))[0]
    assert np.abs(table - GOLDEN["ap_per_class_07"]).max() < 1e-9
    assert (GOLDEN["thresholds"] == np.round(100 * THRESHOLDS)).all()
    found = [table.mean(), table[0].mean(), table[5].mean()]
    assert found == pytest.approx([float(GOLDEN[name]) for name in ("AP", "AP50", "AP75")], abs=1e-9)


def test_without_the_rounding_of_text_boxes_on_a_threshold_count_otherwise() -> None:
    table = 100 * average_precision(match_voc(*golden_task(), 4, text=False))[0]
    changed = np.abs(table - GOLDEN["ap_per_class_07"]).max(axis=0) > 1e-9
    assert changed.tolist() == [True, False, False, False]  # class 0 has the ten such boxes


def definition(samples: list[Sample], found: list[Detections], label: int, threshold: float) -> float:
    """VOC 2007's scorer, one detection after the other, with exact boxes and scores."""
    flat = [
        (float(score), image, [float(x) for x in box])
        for image, one in enumerate(found)
        for box, score, kind in zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
        if kind == label
    ]
    flat.sort(key=lambda row: -row[0])  # stable: of equal scores the earlier image and the earlier row first
    known = [
        [
            [box, bool(hard), False]
            for box, kind, hard in zip(one.boxes.tolist(), one.labels.tolist(), one.difficult.tolist(), strict=True)
            if kind == label
        ]
        for one in samples
    ]
    objects = sum(not hard for rows in known for _, hard, _ in rows)
    if not objects:
        return float("nan")
    right = wrong = 0
    curve = []
    for _, image, box in flat:
        best, at = -1.0, -1
        for place, (true, _, _) in enumerate(known[image]):
            wide = min(box[2], true[2]) - max(box[0] + 1, true[0] + 1) + 1
            tall = min(box[3], true[3]) - max(box[1] + 1, true[1] + 1) + 1
            inside = max(wide, 0.0) * max(tall, 0.0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, true)]
            overlap = inside / (areas[0] + areas[1] - inside)
            if overlap > best:
                best, at = overlap, place
        if best > threshold:
            if known[image][at][1]:
                pass
            elif known[image][at][2]:
                wrong += 1
            else:
                right += 1
                known[image][at][2] = True
        else:
            wrong += 1
        if right + wrong:
            curve.append((right / objects, right / (right + wrong)))
    return sum(max([p for r, p in curve if r >= point], default=0.0) for point in np.arange(0.0, 1.1, 0.1)) / 11


@pytest.mark.parametrize("seed", range(200))
def test_the_definition_written_out_gives_the_same_with_difficult_objects_and_ties(seed: int) -> None:
    samples, found = case(seed)
    table = average_precision(match_voc(samples, found, 3, text=False))[0]
    slow = [[definition(samples, found, label, threshold) for label in range(3)] for threshold in THRESHOLDS]
    assert table == pytest.approx(np.array(slow), abs=1e-12, nan_ok=True)


def test_nothing_found_is_zero_and_a_class_without_objects_has_no_ap() -> None:
    nothing = answer(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    table = average_precision(match_voc([sample(1, [[1, 1, 9, 9]], [0]), sample(2, [], [])], [nothing, nothing], 2))[0]
    assert (table[:, 0] == 0).all() and np.isnan(table[:, 1]).all()
