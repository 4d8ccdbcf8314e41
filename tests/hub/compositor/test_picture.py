"""The sheet of composites: every view in its place, boxes where they are told."""

import numpy as np
import pytest
import torch

from insloc_hub.compositor.colour import Colour
from insloc_hub.compositor.picture import DRAWN_BOX, GAP, TRUE_BOX, picture_of_views
from insloc_hub.compositor.views import View

SIDE = 32


def unchanged(b: int) -> Colour:
    off, none = torch.zeros(b, dtype=torch.bool), torch.zeros(b)
    return Colour(jitter=off, factors=torch.ones(b, 4), order=torch.tensor([[0, 1, 2, 3]]).expand(b, -1), grey=off, sigma=none)


def flat(levels: list[int], box: list[float]) -> View:
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).contiguous()
    return View(composites=images, colour=unchanged(len(levels)), boxes=torch.tensor([box] * len(levels)).float())


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    y, x = GAP + row * (SIDE + GAP), GAP + column * (SIDE + GAP)
    return sheet[y : y + SIDE, x : x + SIDE]


def pixels_of(part: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """Tight x1 y1 x2 y2 of a colour."""
    ys, xs = np.nonzero((part == colour).all(axis=2))
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def test_a_column_per_instance_query_above_key_below_with_their_boxes() -> None:
    query, key = flat([10, 20], [2, 3, 20, 30]), flat([60, 70], [5, 1, 25, 28])
    sheet = np.asarray(picture_of_views(query, key, torch.tensor([[-4.0, 6.0, 40.0, 27.0]] * 2)))
    assert sheet.shape == (2 * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + GAP, 3)
    for column in range(2):
        above, below = tile(sheet, 0, column), tile(sheet, 1, column)
        assert above[0, 0].tolist() == [10 + 10 * column] * 3 and below[0, 0].tolist() == [60 + 10 * column] * 3
        assert pixels_of(above, TRUE_BOX) == [2, 3, 20, 30]
        assert pixels_of(below, TRUE_BOX) == [5, 1, 25, 28]
        assert pixels_of(above, DRAWN_BOX) == [0, 6, SIDE, 27]  # cut at the canvas
        assert not (below == DRAWN_BOX).all(axis=2).any()


@pytest.mark.parametrize(("given", "shown"), [(3, 3), (12, 8)])
def test_at_most_eight_instances_are_shown(given: int, shown: int) -> None:
    views = flat([9] * given, [1, 1, 9, 9])
    assert picture_of_views(views, views, views.boxes).width == shown * (SIDE + GAP) + GAP
