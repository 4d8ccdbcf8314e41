"""Views: a function of (seed, epoch, index) alone, redrawn by hand from what was drawn."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from insloc_hub.compositor.colour import draw_colour
from insloc_hub.compositor.geometry import VIEW_UNIFORMS, draw_layout
from insloc_hub.compositor.views import KEY, QUERY, View, draw_numbers, make_view, make_views, to_input
from insloc_hub.data.cache import Pixels
from insloc_hub.data.transform import LEVELS, InputFacts
from insloc_hub.demo.world import draw
from insloc_hub.recipe import Recipe

TOTAL = 48
Tiny = Callable[..., Recipe]
Held = Callable[[list[Tensor]], Pixels]


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    sizes = [(60 + 7 * (i % 5), 90 - 6 * (i % 4)) for i in range(TOTAL)]
    return [torch.from_numpy(draw(0, i, sizes[i]).pixels).permute(2, 0, 1) for i in range(TOTAL)]


@pytest.fixture
def view(images: list[Tensor], tiny: Tiny, held: Held) -> Callable[..., View]:
    def make(indices: list[int], epoch: int = 0, which: int = QUERY, **changes: object) -> View:
        return make_view(held(images), TOTAL, indices, epoch, tiny(**changes), which)

    return make


def levels(view: View) -> Tensor:
    return to_input(view, LEVELS)


def slow_resize(image: np.ndarray, h: int, w: int) -> np.ndarray:
    """[3 h w] floats, bilinear, half-pixel centres, edges repeated: a matrix for each axis, filled weight by weight."""

    def weights(old: int, new: int) -> np.ndarray:
        matrix = np.zeros((new, old))
        for i in range(new):
            at = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            matrix[i, int(at)] += 1 - (at - int(at))
            matrix[i, min(int(at) + 1, old - 1)] += at - int(at)
        return matrix

    return weights(image.shape[1], h) @ image @ weights(image.shape[2], w).T


@pytest.mark.parametrize("which", [QUERY, KEY])
def test_views_without_colour_equal_composites_redrawn_by_hand(
    images: list[Tensor], view: Callable[..., View], tiny: Tiny, which: int
) -> None:
    recipe = tiny()
    numbers = draw_numbers(recipe, 0, list(range(TOTAL)))[which]
    colour = draw_colour(numbers[:, VIEW_UNIFORMS:], recipe.blur_sigma)
    plain = np.flatnonzero((~colour.jitter & ~colour.grey & (colour.sigma == 0)).numpy()).tolist()
    assert len(plain) >= 2
    sizes = np.array([[x.shape[2], x.shape[1]] for x in images])
    layout = draw_layout(sizes, TOTAL, 64, (32, 62), numbers[:, :VIEW_UNIFORMS])
    made = view(plain, which=which)
    for place, index in enumerate(plain):
        slow = slow_resize(images[layout.background[index]].numpy(), 64, 64)
        (cx1, cy1, cx2, cy2), (x1, y1, x2, y2) = layout.crop[index], layout.box[index]
        slow[:, y1:y2, x1:x2] = slow_resize(images[index].numpy()[:, cy1:cy2, cx1:cx2], y2 - y1, x2 - x1)
        box = [x1, y1, x2, y2]
        if layout.flip[index]:
            slow, box = slow[:, :, ::-1], [64 - x2, y1, 64 - x1, y2]
        assert np.abs(levels(made)[place].round().numpy() - np.rint(slow)).max() <= 1
        assert made.boxes[place].tolist() == box


def test_the_same_seed_gives_the_same_batch(view: Callable[..., View]) -> None:
    one, two = view([5, 3, 40]), view([5, 3, 40])
    assert torch.equal(levels(one), levels(two)) and torch.equal(one.boxes, two.boxes)


def test_another_seed_epoch_index_or_view_gives_another_box_and_picture(view: Callable[..., View]) -> None:
    indices = list(range(12))
    first = view(indices)
    for other in (view(indices, seed=1), view(indices, epoch=1), view(indices, which=KEY), view(indices[1:] + indices[:1])):
        assert (first.boxes != other.boxes).any(dim=1).float().mean() > 0.9
        assert (levels(first) - levels(other)).abs().mean(dim=(1, 2, 3)).min() > 2


def test_a_view_does_not_depend_on_its_batch(view: Callable[..., View]) -> None:
    together = view(list(range(24)))
    for index in (0, 7, 23):
        for company in ([index], [index, 40, 41], [31, index]):
            place = company.index(index)
            apart = view(company)
            assert torch.equal(apart.boxes[place], together.boxes[index])
            assert torch.equal(apart.composites[place], together.composites[index])
            # The affine's sums may be taken in another order; a view of another batch is far off (see above).
            assert torch.allclose(levels(apart)[place], levels(together)[index], atol=1e-3)


def test_an_index_twice_in_a_batch_is_the_same_view_twice(view: Callable[..., View]) -> None:
    twice = view([7, 9, 7])
    assert torch.equal(twice.composites[0], twice.composites[2]) and torch.equal(twice.boxes[0], twice.boxes[2])


def test_both_views_together_are_those_made_alone(
    images: list[Tensor], view: Callable[..., View], tiny: Tiny, held: Held
) -> None:
    both = make_views(held(images), TOTAL, [4, 9, 30], 1, tiny())
    for which in (QUERY, KEY):
        alone = view([4, 9, 30], epoch=1, which=which)
        assert torch.equal(both[which].composites, alone.composites) and torch.equal(both[which].boxes, alone.boxes)


def test_geometry_and_colour_are_drawn_apart(view: Callable[..., View]) -> None:
    plain, blurred = view([1, 2, 3]), view([1, 2, 3], blur_sigma=(1.0, 3.0))
    assert torch.equal(plain.boxes, blurred.boxes) and torch.equal(plain.composites, blurred.composites)


def test_backgrounds_come_from_the_pool_alone(images: list[Tensor], tiny: Tiny, held: Held) -> None:
    """A pool of bright images under dark ones: every corner that no box reaches is bright."""
    dark = [torch.zeros(3, 40, 50, dtype=torch.uint8)] * 30 + [torch.full((3, 30, 20), 255, dtype=torch.uint8)] * 10
    query, _ = make_views(held(dark), np.array([30, 34, 39]), list(range(24)), 0, tiny())
    for composite, (x1, y1, x2, y2) in zip(query.composites, query.boxes.int().tolist(), strict=True):
        assert (composite[:, y1:y2, x1:x2] == 0).all()
        assert composite.sum() == 255 * 3 * (64 * 64 - (x2 - x1) * (y2 - y1))


def test_squares_that_are_kept_change_no_pixel(images: list[Tensor], tiny: Tiny, held: Held) -> None:
    fresh, kept = held(images), held(images)
    kept.settle(64, 1e9, 4096)
    for _ in range(2):  # made, then found
        for one, other in zip(
            make_views(fresh, TOTAL, [4, 9, 30], 0, tiny()), make_views(kept, TOTAL, [4, 9, 30], 0, tiny()), strict=True
        ):
            assert torch.equal(one.composites, other.composites)


def test_views_are_levels_of_the_recipes_canvas(view: Callable[..., View]) -> None:
    made = view(list(range(16)))
    assert made.composites.shape == (16, 3, 64, 64) and levels(made).dtype == torch.float32
    assert levels(made).min() >= -1e-3 and levels(made).max() <= 255.001 and levels(made).max() > 100
    assert (made.boxes[:, :2] >= 0).all() and (made.boxes[:, 2:] <= 64).all()


def test_the_network_input_is_normalised_by_the_released_numbers(view: Callable[..., View]) -> None:
    made = view(list(range(16)))
    facts = InputFacts(size=(64, 64), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    slow = (levels(made).numpy() - mean[:, None, None]) / std[:, None, None]
    assert np.abs(to_input(made, facts).numpy() - slow).max() < 1e-4
