"""The draws of patches/relocate: limits, distribution, candidates; no pixels."""

import numpy as np
import pytest

from insloc_eval.protocols import PATCHES_RELOCATE as PROTOCOL
from insloc_eval.tasks.candidates import overlaps
from insloc_eval.tasks.relocate_draws import (
    candidate_boxes,
    constant_box,
    draw_patch,
    keep_aspect,
    reference_rows,
)


def test_a_draw_depends_on_seed_and_key_only() -> None:
    first = draw_patch(PROTOCOL, 128, 0, "a/b.jpg")
    draw_patch(PROTOCOL, 128, 0, "c.jpg")
    assert draw_patch(PROTOCOL, 128, 0, "a/b.jpg") == first
    assert draw_patch(PROTOCOL, 128, 1, "a/b.jpg") != first
    assert draw_patch(PROTOCOL, 128, 0, "a/c.jpg") != first


def test_a_frozen_draw() -> None:
    """Made with the first version of this file: every stored record hangs on it."""
    patch = draw_patch(PROTOCOL, 128, 0, "a/b.jpg")
    assert (patch.box, patch.view, patch.view_wh, patch.flip, patch.order) == FROZEN


FROZEN = ((84, 58, 128, 103), (85, 61, 128, 103), (31, 30), False, (2, 0, 1, 3))


@pytest.mark.parametrize("size", [128, 256])
def test_patches_and_views_keep_to_the_protocol(size: int) -> None:
    patches = [draw_patch(PROTOCOL, size, 0, str(i)) for i in range(3000)]
    boxes, views = (np.array([getattr(p, name) for p in patches]) for name in ("box", "view"))
    wh = boxes[:, 2:] - boxes[:, :2]
    for rows in (boxes, views):
        assert rows.min() >= 0 and rows.max() <= size and (rows[:, :2] < rows[:, 2:]).all()
    long, short = wh.max(axis=1), wh.min(axis=1)
    assert long.max() < size / 2 and short.min() >= size / 8 - 1
    # One of the two bounds is always met, and a bound is at least S/4.
    assert long.min() >= size / 4
    assert (long / short).max() < 2.1
    assert np.log(wh[:, 0] / wh[:, 1]).mean() == pytest.approx(0, abs=0.03)
    moved = np.abs(views - boxes) / np.tile(wh, 2)
    assert moved.max() <= 0.1 + 1 / short.min()
    factor = np.array([p.view_wh for p in patches])[:, 0] / (views[:, 2] - views[:, 0])
    assert factor.min() > 0.66 and factor.max() < 1.45 and factor.mean() == pytest.approx(1.05, abs=0.02)
    assert np.mean([p.flip for p in patches]) == pytest.approx(0.5, abs=0.03)
    jitter = np.array([p.jitter for p in patches])
    assert jitter.min(axis=0) == pytest.approx([0.6, 0.6, 0.6, -0.1], abs=0.01)
    assert jitter.max(axis=0) == pytest.approx([1.4, 1.4, 1.4, 0.1], abs=0.01)
    assert len({p.order for p in patches}) == 24


def test_patches_reach_every_edge_of_the_image() -> None:
    boxes = np.array([draw_patch(PROTOCOL, 128, 0, str(i)).box for i in range(3000)])
    assert boxes.min(axis=0)[:2].tolist() == [0, 0]
    assert boxes.max(axis=0)[2:].tolist() == [128, 128]


@pytest.mark.parametrize(
    ("aspect", "bounds", "wh"), [(0.5, [40, 60], (30, 60)), (2, [60, 20], (40, 20)), (1, [33, 33], (33, 33))]
)
def test_either_the_long_or_the_short_side_meets_its_bound(aspect: float, bounds: list[int], wh: tuple[int, int]) -> None:
    assert keep_aspect(aspect, bounds) == wh


def test_the_candidates_are_16_by_16_centres_5_ratios_and_5_scales() -> None:
    boxes = candidate_boxes(PROTOCOL, 128)
    assert boxes.shape == (16 * 16 * 25, 4)
    assert boxes.min() == 0 and boxes.max() == 128
    centre = boxes.reshape(16, 16, 5, 5, 4)[8, 7]  # row 8, column 7: x 60, y 68
    assert centre[2, 0].tolist() == [60 - 16, 68 - 16, 60 + 16, 68 + 16]
    w, h = centre[0, 3, 2] - centre[0, 3, 0], centre[0, 3, 3] - centre[0, 3, 1]
    assert (h / w, w * h) == pytest.approx((0.5, 64**2))


@pytest.mark.parametrize(
    ("other", "iou"),
    [([0, 0, 4, 4], 1), ([4, 0, 8, 4], 0), ([2, 0, 6, 4], 1 / 3), ([0, 0, 8, 4], 0.5), ([1, 1, 3, 3], 0.25)],
)
def test_overlaps_of_simple_boxes(other: list[int], iou: float) -> None:
    assert overlaps(np.array([0.0, 0.0, 4.0, 4.0]), np.array([other], np.float64)).tolist() == pytest.approx([iou])


def test_reference_rows_of_drawn_patches() -> None:
    boxes = candidate_boxes(PROTOCOL, 128)
    patches = [draw_patch(PROTOCOL, 128, 0, str(i)) for i in range(1000)]
    rows = reference_rows(PROTOCOL, 128, np.stack([overlaps(np.array(p.box, np.float64), boxes) for p in patches]))
    assert rows["oracle"]["acc50"] == 1.0 and rows["oracle"]["miou"] > 0.78
    assert rows["random candidate"]["acc50"] == pytest.approx(0.015, abs=0.005)
    assert 0.03 < rows["constant box"]["acc50"] < 0.09
    assert rows["random candidate"]["miou"] < rows["constant box"]["miou"] < rows["oracle"]["miou"]


def test_the_constant_box_lies_about_the_middle() -> None:
    x1, y1, x2, y2 = candidate_boxes(PROTOCOL, 128)[constant_box(PROTOCOL, 128)]
    assert 40 < (x1 + x2) / 2 < 88 and 40 < (y1 + y2) / 2 < 88 and 1000 < (x2 - x1) * (y2 - y1) < 3600
