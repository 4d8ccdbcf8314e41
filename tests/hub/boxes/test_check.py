"""Boxes that people send: what is clipped, and what is refused with the index of the first bad one."""

import math

import numpy as np
import pytest
import torch

from insloc_hub.boxes.check import check_boxes
from insloc_hub.errors import BadBox, InslocError

W, H = 40, 30
INF, NAN = math.inf, math.nan

GOOD = [
    ([], []),
    ((), []),
    (np.zeros((0, 4)), []),
    (torch.zeros(0, 4), []),
    ([[0, 0, W, H]], [[0, 0, 40, 30]]),
    ([[1.5, 2, 3, 4.25]], [[1.5, 2, 3, 4.25]]),
    (((1, 2, 3, 4), (5, 6, 7, 8)), [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ([[-7, -1, 9, 9]], [[0, 0, 9, 9]]),
    ([[35, 25, 99, 31]], [[35, 25, 40, 30]]),
    ([[-1e30, -1e300, 1e300, 1e30]], [[0, 0, 40, 30]]),
    (np.array([[1, 2, 3, 4]], np.int32), [[1, 2, 3, 4]]),
    (torch.tensor([[1.0, 2, 3, 4]]).half(), [[1, 2, 3, 4]]),
    (np.array([[39.999, 0, 41, 1]]), [[39.999, 0, 40, 1]]),
]

BAD = [
    ([[1, 2, NAN, 4]], 0, "no finite number"),
    ([[1, 2, 3, 4], [1, 2, INF, 4]], 1, "no finite number"),
    ([[-INF, 2, 3, 4]], 0, "no finite number"),
    ([[1, 2, 3, 4], [1, 2, 3, 4], [3, 2, 1, 4]], 2, "reversed or empty"),
    ([[1, 4, 3, 2]], 0, "reversed or empty"),
    ([[1, 2, 1, 4]], 0, "reversed or empty"),
    ([[1, 2, 3, 2]], 0, "reversed or empty"),
    ([[5, 5, 6, 6], [40, 2, 50, 4]], 1, "outside the 40 x 30 image"),
    ([[-9, 2, 0, 4]], 0, "outside the 40 x 30 image"),
    ([[1, 30, 3, 44]], 0, "outside the 40 x 30 image"),
    ([[1, -5, 3, -1]], 0, "outside the 40 x 30 image"),
    ([[1e300, 2, 2e300, 4]], 0, "outside the 40 x 30 image"),
    ([[5, 5, 5 + 1e-9, 9]], 0, "empty"),  # its width is nothing in the float32 that comes back
    ([[1, 2, 3, 4], [1, 2, 3]], 1, "four numbers"),
    ([[1, 2, 3, 4], [1, 2, 3, 4, 5]], 1, "four numbers"),
    ([[1, 2, 3, 4], 5], 1, "four numbers"),
    ([[1, 2, 3, 4], "1234"], 1, "four numbers"),
    ([[1, 2, "3", 4]], 0, "four numbers"),
    ([[1, 2, None, 4]], 0, "four numbers"),
    ([[1, 2, 3, 10**400]], 0, "four numbers"),
    ("1 2 3 4", 0, "four numbers"),
    (None, 0, "four numbers"),
    ({"x": 1}, 0, "four numbers"),
    (5, 0, "rows of x1, y1, x2, y2"),
    ([1, 2, 3, 4], 0, "rows of x1, y1, x2, y2"),
    ([[1, 2, 3]], 0, "rows of x1, y1, x2, y2"),
    ([[]], 0, "rows of x1, y1, x2, y2"),
    (np.zeros((1, 4, 4)), 0, "rows of x1, y1, x2, y2"),
    (np.zeros((2, 0)), 0, "rows of x1, y1, x2, y2"),
]


@pytest.mark.parametrize(("boxes", "clipped"), GOOD)
def test_good_boxes_come_back_as_float32_clipped_to_the_image(boxes: object, clipped: list[list[float]]) -> None:
    checked = check_boxes(boxes, (W, H))
    assert checked.dtype == torch.float32 and checked.shape == (len(clipped), 4)
    assert checked.tolist() == [pytest.approx(row, rel=1e-6) for row in clipped]


@pytest.mark.parametrize(("boxes", "index", "reason"), BAD, ids=[str(row[0])[:40] for row in BAD])
def test_a_bad_box_is_refused_with_its_index_and_the_reason(boxes: object, index: int, reason: str) -> None:
    with pytest.raises(BadBox, match=reason) as refusal:
        check_boxes(boxes, (W, H))
    assert refusal.value.index == index
    assert str(refusal.value).startswith(f"box {index}: ")
    assert isinstance(refusal.value, InslocError)


def test_a_box_of_less_than_a_pixel_is_a_box() -> None:
    assert check_boxes([[3.1, 3.1, 3.2, 3.2]], (W, H)).tolist() == [pytest.approx([3.1, 3.1, 3.2, 3.2])]


def test_the_boxes_that_are_given_are_left_alone() -> None:
    given = torch.tensor([[-5.0, 2, 50, 8]])
    check_boxes(given, (W, H))
    assert given.tolist() == [[-5, 2, 50, 8]]
