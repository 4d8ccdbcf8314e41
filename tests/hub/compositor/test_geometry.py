"""Crops, sizes, places and flips against the released rule (paper.md A.1), its frozen runs and its statistics."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chisquare

from insloc_hub import paper
from insloc_hub.compositor.geometry import (
    CROP_UNIFORMS,
    VIEW_UNIFORMS,
    Layout,
    central_crop,
    draw_crop,
    draw_layout,
    rescale,
    uniforms,
)

Golden = Callable[[str], dict[str, np.ndarray]]
RULE = paper.CROP_AREA, paper.CROP_ASPECT
LAST = np.nextafter(1.0, 0.0)  # the largest number that a uniform in [0, 1) can be

# paper.md A.1.1: 500 x 375 sources on a 256 px canvas
MEANS = {
    "width": 183.3,
    "height": 162.9,
    "any side": 173.1,
    "short side": 146.6,
    "long side": 199.5,
    "sqrt(area)": 170.3,
}


def slow_crop(w_image: int, h_image: int, u: list[float]) -> tuple[list[int], int]:
    """paper.md A.1.1 word by word: (x1 y1 x2 y2, uniforms used)."""
    used = 0
    for _ in range(10):
        area = (0.2 + u[used] * 0.8) * h_image * w_image
        aspect = math.exp(math.log(0.5) + u[used + 1] * (math.log(2) - math.log(0.5)))
        used += 2
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= w_image and 0 < h <= h_image:
            y = math.floor(u[used] * (h_image - h + 1))
            x = math.floor(u[used + 1] * (w_image - w + 1))
            return [x, y, x + w, y + h], used + 2
    w, h = w_image, h_image
    if w_image / h_image < 0.5:
        h = round(w_image / 0.5)
    elif w_image / h_image > 2:
        w = round(2 * h_image)
    x, y = (w_image - w) // 2, (h_image - h) // 2
    return [x, y, x + w, y + h], used


def draw(n: int, size_wh: tuple[int, int], canvas: int, images: int = 10, seed: int = 0) -> Layout:
    numbers = uniforms(seed, 0, np.arange(n), 0, VIEW_UNIFORMS)
    return draw_layout(np.tile(size_wh, (n, 1)), images, canvas, (canvas // 2, canvas - 2), numbers)


@pytest.fixture(scope="module", params=[256, 128])
def drawn(request: pytest.FixtureRequest) -> Layout:
    return draw(4000, (500, 375), request.param)


def test_the_rescale_rule_gives_the_frozen_sizes(golden: Golden) -> None:
    table = golden("compositor")["rescale"]
    assert np.array_equal(rescale(table[:, :2], table[:, 2:4]), table[:, 4:])


def test_the_crop_rule_gives_the_frozen_crops_fallbacks_included(golden: Golden) -> None:
    frozen = golden("compositor")
    y, x, h, w = frozen["crop_yxhw"].T
    crops = draw_crop(frozen["crop_size_wh"], frozen["crop_uniforms"], *RULE)
    assert np.array_equal(crops, np.stack([x, y, x + w, y + h], axis=1))
    slow = [slow_crop(*wh, u) for wh, u in zip(frozen["crop_size_wh"].tolist(), frozen["crop_uniforms"].tolist(), strict=True)]
    assert [used for _, used in slow] == frozen["crop_used"].tolist()
    fell_back = (crops == central_crop(frozen["crop_size_wh"], paper.CROP_ASPECT)).all(axis=1)
    assert fell_back.any() and not fell_back.all()


def test_numbers_after_the_accepted_try_do_not_matter(golden: Golden) -> None:
    frozen = golden("compositor")
    numbers = frozen["crop_uniforms"].copy()
    numbers[np.arange(CROP_UNIFORMS)[None, :] >= frozen["crop_used"][:, None]] = 0.77
    assert not np.array_equal(numbers, frozen["crop_uniforms"])
    assert np.array_equal(
        draw_crop(frozen["crop_size_wh"], numbers, *RULE), draw_crop(frozen["crop_size_wh"], frozen["crop_uniforms"], *RULE)
    )


def test_no_sample_gives_no_crop() -> None:
    assert draw_crop(np.zeros((0, 2), np.int64), np.zeros((0, CROP_UNIFORMS)), *RULE).shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (2, 97), (500, 3), (7, 5), (640, 480), (33, 1000)])
def test_crops_equal_the_rule_said_word_by_word_also_in_tiny_and_long_images(size: tuple[int, int]) -> None:
    numbers = uniforms(5, 1, np.arange(200), 0, CROP_UNIFORMS)
    crops = draw_crop(np.tile(size, (200, 1)), numbers, *RULE)
    assert crops.tolist() == [slow_crop(*size, row)[0] for row in numbers.tolist()]
    assert (crops[:, :2] >= 0).all() and (crops[:, 2:] <= size).all() and (crops[:, 2:] > crops[:, :2]).all()


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((100, 300), [0, 50, 100, 250]),
        ((300, 100), [50, 0, 250, 100]),
        ((301, 100), [50, 0, 250, 100]),
        ((150, 100), [0, 0, 150, 100]),
        ((200, 100), [0, 0, 200, 100]),
        ((1, 9), [0, 3, 1, 5]),
    ],
)
def test_the_fallback_is_the_middle_of_the_image_at_most_one_to_two(size: tuple[int, int], crop: list[int]) -> None:
    assert central_crop(np.array([size]), paper.CROP_ASPECT).tolist() == [crop]
    across = 0.0 if size[0] > size[1] else LAST  # a tall crop in a wide image, a wide one in a tall image: never fits
    assert draw_crop(np.array([size]), np.tile([LAST, across], 11)[None, :], *RULE).tolist() == [crop]


def scripted(bounds: tuple[float, float], place: tuple[float, float], background: float = 0.0, flip: float = 0.9) -> np.ndarray:
    """Uniforms of a view of a square image with the whole of it as the crop."""
    crop = [LAST, 0.5, 0.0, 0.0] + [0.5] * (CROP_UNIFORMS - 4)
    return np.array([[background, *crop, *bounds, *place, flip]])


@pytest.mark.parametrize(("canvas", "low", "high"), [(256, 128, 254), (128, 64, 126)])
def test_both_ends_of_the_bounds_are_reached_and_nothing_beyond(canvas: int, low: int, high: int) -> None:
    for number, side in ((0.0, low), (LAST, high)):
        numbers = scripted((number, number), (0.0, 0.0))
        layout = draw_layout(np.array([[100, 100]]), 3, canvas, (canvas // 2, canvas - 2), numbers)
        assert layout.box.tolist() == [[0, 0, side, side]]
    numbers = uniforms(0, 0, np.arange(3000), 0, VIEW_UNIFORMS)
    numbers[:, 1:5] = [LAST, 0.5, 0.0, 0.0]
    numbers[:, CROP_UNIFORMS + 2] = numbers[:, CROP_UNIFORMS + 1]  # both bounds equal: the side of the square
    sides = draw_layout(np.tile([100, 100], (3000, 1)), 3, canvas, (low, high), numbers).box[:, 2:] @ [1, 0]
    sides -= draw_layout(np.tile([100, 100], (3000, 1)), 3, canvas, (low, high), numbers).box[:, 0]
    assert set(sides.tolist()) == set(range(low, high + 1))


def test_a_crop_never_touches_the_right_or_lower_edge() -> None:
    last = draw_layout(np.array([[100, 100]]), 3, 256, (128, 254), scripted((LAST, LAST), (LAST, LAST))).box
    assert last.tolist() == [[1, 1, 255, 255]]
    first = draw_layout(np.array([[100, 100]]), 3, 256, (128, 254), scripted((0, 0), (0, LAST))).box
    assert first.tolist() == [[127, 0, 255, 128]]  # the row is drawn first


def test_sides_and_areas_have_the_means_of_the_paper(drawn: Layout) -> None:
    scale = drawn.canvas / 256
    w, h = (drawn.box[:, 2:] - drawn.box[:, :2]).T / scale
    found = {
        "width": w.mean(),
        "height": h.mean(),
        "any side": (w.mean() + h.mean()) / 2,
        "short side": np.minimum(w, h).mean(),
        "long side": np.maximum(w, h).mean(),
        "sqrt(area)": np.sqrt(w * h).mean(),
    }
    assert found == pytest.approx(MEANS, rel=0.015)
    assert (w * h / 256**2).mean() == pytest.approx(0.453, rel=0.02)
    assert (w / h).mean() == pytest.approx(1.196, rel=0.02)
    assert np.percentile(w, [5, 50, 95]) == pytest.approx([121, 183, 246], rel=0.03)
    assert np.percentile(h, [5, 50, 95]) == pytest.approx([105, 157, 236], rel=0.03)
    assert (np.minimum(w, h) < 128).mean() == pytest.approx(0.235, abs=0.025)


def test_boxes_lie_on_the_canvas_with_their_right_and_lower_edge_free(drawn: Layout) -> None:
    assert drawn.box.min() == 0
    assert drawn.box.max() == drawn.canvas - 1


def test_places_spread_over_all_that_is_free(drawn: Layout) -> None:
    free = drawn.canvas - (drawn.box[:, 2:] - drawn.box[:, :2])
    at = drawn.box[:, :2] / free
    assert at.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.03)  # below: whole pixels, so a little under a half
    assert abs(np.corrcoef(at.T)[0, 1]) < 0.06


def test_backgrounds_are_uniform_over_the_set_the_own_image_included() -> None:
    layout = draw(20_000, (50, 40), 64, images=10)
    assert chisquare(np.bincount(layout.background, minlength=10)).pvalue > 1e-3
    own = layout.background == np.arange(20_000) % 10
    assert own.mean() == pytest.approx(0.1, abs=0.01)


def test_half_of_the_views_are_flipped(drawn: Layout) -> None:
    assert drawn.flip.mean() == pytest.approx(0.5, abs=0.03)


def test_final_boxes_are_mirrored_where_the_view_is() -> None:
    layout = Layout(
        background=np.array([0, 0]),
        crop=np.array([[0, 0, 5, 5]] * 2),
        box=np.array([[1, 2, 30, 40]] * 2),
        flip=np.array([False, True]),
        canvas=64,
    )
    assert layout.final_boxes().tolist() == [[1, 2, 30, 40], [34, 2, 63, 40]]
    assert layout.final_boxes().dtype == np.float32


def test_numbers_are_a_function_of_seed_epoch_index_and_stream() -> None:
    one = uniforms(3, 4, np.array([11]), 1, 30)
    assert np.array_equal(uniforms(3, 4, np.array([9, 11, 10]), 1, 30)[1:2], one)
    others = [uniforms(4, 4, np.array([11]), 1, 30), uniforms(3, 5, np.array([11]), 1, 30)]
    others += [uniforms(3, 4, np.array([12]), 1, 30), uniforms(3, 4, np.array([11]), 0, 30)]
    for other in others:
        assert len(np.intersect1d(other, one)) == 0
    assert one.min() >= 0 and one.max() < 1


def test_numbers_are_uniform_and_those_of_neighbours_do_not_hang_together() -> None:
    numbers = uniforms(0, 0, np.arange(2000), 0, 16)
    assert chisquare(np.histogram(numbers, bins=50, range=(0, 1))[0]).pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.02
