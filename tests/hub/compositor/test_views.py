"""Views: a function of (seed, epoch, index) alone, redrawn by hand from what was drawn."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from insloc_hub.compositor.colour import COLOUR_UNIFORMS, draw_colour
from insloc_hub.compositor.geometry import VIEW_UNIFORMS, draw_layout, uniforms
from insloc_hub.compositor.views import COLOUR_STREAM, GEOMETRY_STREAM, KEY, QUERY, View, make_view, to_input
from insloc_hub.data.transform import InputFacts
from insloc_hub.demo.world import draw
from insloc_hub.recipe import Recipe

TOTAL = 48
Tiny = Callable[..., Recipe]


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    sizes = [(60 + 7 * (i % 5), 90 - 6 * (i % 4)) for i in range(TOTAL)]
    return [torch.from_numpy(draw(0, i, sizes[i]).pixels).permute(2, 0, 1).contiguous() for i in range(TOTAL)]


@pytest.fixture
def view(images: list[Tensor], tiny: Tiny) -> Callable[..., View]:
    def make(indices: list[int], epoch: int = 0, which: int = QUERY, **changes: object) -> View:
        return make_view(images.__getitem__, TOTAL, indices, epoch, tiny(**changes), which)

    return make


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
    recipe, order = tiny(), np.arange(TOTAL)
    colour = draw_colour(uniforms(0, 0, order, COLOUR_STREAM[which], COLOUR_UNIFORMS), recipe.blur_sigma)
    plain = np.flatnonzero((~colour.jitter & ~colour.grey & (colour.sigma == 0)).numpy()).tolist()
    assert len(plain) >= 2
    sizes = np.array([[x.shape[2], x.shape[1]] for x in images])
    numbers = uniforms(0, 0, order, GEOMETRY_STREAM[which], VIEW_UNIFORMS)
    layout = draw_layout(sizes, TOTAL, 64, (32, 62), numbers)
    made = view(plain, which=which)
    for place, index in enumerate(plain):
        slow = slow_resize(images[layout.background[index]].numpy(), 64, 64)
        (cx1, cy1, cx2, cy2), (x1, y1, x2, y2) = layout.crop[index], layout.box[index]
        slow[:, y1:y2, x1:x2] = slow_resize(images[index].numpy()[:, cy1:cy2, cx1:cx2], y2 - y1, x2 - x1)
        box = [x1, y1, x2, y2]
        if layout.flip[index]:
            slow, box = slow[:, :, ::-1], [64 - x2, y1, 64 - x1, y2]
        assert np.abs(made.images[place].round().numpy() - np.rint(slow)).max() <= 1
        assert made.boxes[place].tolist() == box


def test_the_same_seed_gives_the_same_batch(view: Callable[..., View]) -> None:
    one, two = view([5, 3, 40]), view([5, 3, 40])
    assert torch.equal(one.images, two.images) and torch.equal(one.boxes, two.boxes)


def test_another_seed_epoch_index_or_view_gives_another_box_and_picture(view: Callable[..., View]) -> None:
    indices = list(range(12))
    first = view(indices)
    for other in (view(indices, seed=1), view(indices, epoch=1), view(indices, which=KEY), view(indices[1:] + indices[:1])):
        assert (first.boxes != other.boxes).any(dim=1).float().mean() > 0.9
        assert (first.images - other.images).abs().mean(dim=(1, 2, 3)).min() > 2


def test_a_view_does_not_depend_on_its_batch(view: Callable[..., View]) -> None:
    together = view(list(range(24)))
    for index in (0, 7, 23):
        for company in ([index], [index, 40, 41], [31, index]):
            place = company.index(index)
            apart = view(company)
            assert torch.equal(apart.boxes[place], together.boxes[index])
            # Sums of the blur may be taken in another order; a view of another batch is far off (see above).
            assert torch.allclose(apart.images[place], together.images[index], atol=1e-3)


def test_an_index_twice_in_a_batch_is_the_same_view_twice(view: Callable[..., View]) -> None:
    twice = view([7, 9, 7])
    assert torch.allclose(twice.images[0], twice.images[2], atol=1e-3) and torch.equal(twice.boxes[0], twice.boxes[2])


def test_geometry_and_colour_are_drawn_apart(view: Callable[..., View]) -> None:
    plain, blurred = view([1, 2, 3]), view([1, 2, 3], blur_sigma=(1.0, 3.0))
    assert torch.equal(plain.boxes, blurred.boxes)


def test_views_are_levels_of_the_recipes_canvas(view: Callable[..., View]) -> None:
    made = view(list(range(16)))
    assert made.images.shape == (16, 3, 64, 64) and made.images.dtype == torch.float32
    assert made.images.min() >= 0 and made.images.max() <= 255 and made.images.max() > 100
    assert (made.boxes[:, :2] >= 0).all() and (made.boxes[:, 2:] <= 64).all()


def test_the_network_input_is_normalised_by_the_released_numbers(view: Callable[..., View]) -> None:
    made = view([4, 5])
    facts = InputFacts(size=(64, 64), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    slow = (made.images.numpy() - mean[:, None, None]) / std[:, None, None]
    assert np.abs(to_input(made, facts).numpy() - slow).max() < 1e-5
