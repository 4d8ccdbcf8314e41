"""The control's views against torchvision's own RandomResizedCrop and Pillow's resize."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from insloc_hub.compositor.crops import CROPPED_UNIFORMS, CropLayout, cut, draw_crops
from insloc_hub.compositor.geometry import uniforms
from insloc_hub.compositor.views import View, draw_numbers, make_views, to_input
from insloc_hub.data.cache import Pixels
from insloc_hub.data.transform import LEVELS
from insloc_hub.demo.world import draw
from insloc_hub.recipe import Recipe

TOTAL = 24
DRAWS = 2000


def control(tiny: Callable[..., Recipe], **changes: object) -> Recipe:
    return tiny(views="crops", variant="whole", augment_levels=(False,), **changes)


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    sizes = [(60 + 9 * (i % 5), 120 - 16 * (i % 4)) for i in range(TOTAL)]
    return [torch.from_numpy(draw(0, i, sizes[i]).pixels).permute(2, 0, 1).contiguous() for i in range(TOTAL)]


def drawn(size_wh: tuple[int, int], n: int = DRAWS) -> CropLayout:
    return draw_crops(np.tile(size_wh, (n, 1)), 112, uniforms(0, 0, np.arange(n), 0, CROPPED_UNIFORMS))


@pytest.mark.parametrize("size", [(500, 375), (64, 64), (300, 90), (90, 400)])
def test_crops_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    w, h = size
    torch.manual_seed(0)
    image = torch.zeros(3, h, w, dtype=torch.uint8)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)])
    x1, y1, x2, y2 = drawn(size).crop.T
    other_y, other_x, other_h, other_w = theirs.T
    pairs = {
        "area": ((x2 - x1) * (y2 - y1), other_w * other_h),
        "log aspect": (np.log((x2 - x1) / (y2 - y1)), np.log(other_w / other_h)),
        "left": (x1, other_x),
        "top": (y1, other_y),
    }
    for name, (ours, other) in pairs.items():
        assert ks_2samp(ours, other).pvalue > 1e-3, name
        assert ours.mean() == pytest.approx(other.mean(), abs=4 * other.std() * math.sqrt(2 / DRAWS) + 1e-9), name
        assert ours.std() == pytest.approx(other.std(), rel=0.1, abs=1e-9), name
        extremes = np.array([ours.min(), ours.max()]) - [other.min(), other.max()]
        assert np.abs(extremes).max() <= 0.08 * np.ptp(other), name  # 2,000 draws; offsets are whole pixels, few at the ends


def test_area_and_aspect_keep_mocos_ranges_and_half_are_mirrored() -> None:
    layout = drawn((500, 375))
    x1, y1, x2, y2 = layout.crop.T
    area, aspect = (x2 - x1) * (y2 - y1) / (500 * 375), (x2 - x1) / (y2 - y1)
    assert area.min() == pytest.approx(0.2, abs=0.01) and area.max() <= 1
    assert aspect.min() == pytest.approx(3 / 4, abs=0.01) and aspect.max() == pytest.approx(4 / 3, abs=0.01)
    assert layout.flip.mean() == pytest.approx(0.5, abs=0.04)


def test_views_equal_pillows_crop_and_resize_within_a_level(images: list[Tensor]) -> None:
    sizes = np.array([[image.shape[2], image.shape[1]] for image in images])
    layout = draw_crops(sizes, 56, uniforms(2, 0, np.arange(TOTAL), 0, CROPPED_UNIFORMS))
    made = cut(images, layout)
    for view, image, box in zip(made, images, layout.crop.tolist(), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(tuple(box)).resize((56, 56), Image.Resampling.BILINEAR)
        assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - np.asarray(picture)).max() <= 1


def test_no_image_gives_no_view() -> None:
    empty = draw_crops(np.zeros((0, 2), np.int64), 56, np.zeros((0, CROPPED_UNIFORMS)))
    assert cut([], empty).shape == (0, 3, 56, 56) and empty.final_boxes().shape == (0, 4)


@pytest.fixture
def two(held: Callable[..., Pixels], images: list[Tensor], tiny: Callable[..., Recipe]) -> Callable[..., tuple[View, View]]:
    def make(indices: list[int], epoch: int = 0, **changes: object) -> tuple[View, View]:
        return make_views(held(images), TOTAL, indices, epoch, control(tiny, **changes))

    return make


def test_both_views_are_whole_and_differ(two: Callable[..., tuple[View, View]]) -> None:
    query, key = (to_input(view, LEVELS) for view in two(list(range(12))))
    assert query.shape == key.shape == (12, 3, 56, 56)
    assert (query - key).abs().mean(dim=(1, 2, 3)).min() > 2
    for view in two(list(range(12))):
        assert view.boxes.tolist() == [[0, 0, 56, 56]] * 12


def test_half_of_the_views_are_mirrored(
    images: list[Tensor], two: Callable[..., tuple[View, View]], tiny: Callable[..., Recipe]
) -> None:
    query, _ = two(list(range(TOTAL)))
    sizes = np.array([[image.shape[2], image.shape[1]] for image in images])
    numbers, _ = draw_numbers(tiny(), 0, list(range(TOTAL)))
    layout = draw_crops(sizes, 56, numbers[:, :CROPPED_UNIFORMS])
    plain = cut(images, layout)
    assert 0.2 < layout.flip.mean() < 0.8
    for row, mirrored in enumerate(layout.flip):
        assert torch.equal(query.composites[row], plain[row].flip(2) if mirrored else plain[row])


def test_views_are_a_function_of_seed_epoch_and_index(two: Callable[..., tuple[View, View]]) -> None:
    together, alone = two(list(range(12))), two([7])
    for one, all_of_them in zip(alone, together, strict=True):
        assert torch.equal(to_input(one, LEVELS)[0], to_input(all_of_them, LEVELS)[7])
    for other in (two(list(range(12)), seed=1), two(list(range(12)), epoch=1)):
        levels = to_input(other[0], LEVELS), to_input(together[0], LEVELS)
        assert (levels[0] - levels[1]).abs().mean(dim=(1, 2, 3)).min() > 1


def test_a_view_shows_its_own_image_only(
    held: Callable[..., Pixels], images: list[Tensor], tiny: Callable[..., Recipe]
) -> None:
    """Every other image may be anything: no background lies under a crop."""
    others = [image if index in (3, 5) else torch.zeros_like(image) for index, image in enumerate(images)]
    made, again = (make_views(held(of), TOTAL, [3, 5], 0, control(tiny)) for of in (images, others))
    for one, other in zip(made, again, strict=True):
        assert torch.equal(one.composites, other.composites)
