"""Composites against a slow bilinear of our own; boxes against the pixels that were pasted."""

import numpy as np
import pytest
import torch
from torch import Tensor

from insloc_hub.compositor.geometry import VIEW_UNIFORMS, Layout, draw_layout, uniforms
from insloc_hub.compositor.paste import mirror, paste
from insloc_hub.data.transform import resize_plain


def slow_bilinear(image: np.ndarray, h: int, w: int) -> np.ndarray:
    """[3 h w] floats: half-pixel centres, edges repeated, no antialias; one pixel after the other."""
    rows, columns = image.shape[1:]
    out = np.zeros((3, h, w))
    for y in range(h):
        at_y = min(max((y + 0.5) * rows / h - 0.5, 0), rows - 1)
        top, bottom = int(at_y), min(int(at_y) + 1, rows - 1)
        for x in range(w):
            at_x = min(max((x + 0.5) * columns / w - 0.5, 0), columns - 1)
            left, right = int(at_x), min(int(at_x) + 1, columns - 1)
            upper = image[:, top, left] * (1 - at_x + left) + image[:, top, right] * (at_x - left)
            lower = image[:, bottom, left] * (1 - at_x + left) + image[:, bottom, right] * (at_x - left)
            out[:, y, x] = upper * (1 - at_y + top) + lower * (at_y - top)
    return out


def slow_composite(background: np.ndarray, foreground: np.ndarray, layout: Layout, row: int) -> np.ndarray:
    out = slow_bilinear(background, layout.canvas, layout.canvas)
    cx1, cy1, cx2, cy2 = layout.crop[row]
    x1, y1, x2, y2 = layout.box[row]
    out[:, y1:y2, x1:x2] = slow_bilinear(foreground[:, cy1:cy2, cx1:cx2], y2 - y1, x2 - x1)
    return out


def noise(seed: int, size_wh: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, size_wh[1], size_wh[0]), generator=generator, dtype=torch.uint8)


def one(crop: list[int], box: list[int], canvas: int = 64, mirrored: bool = False) -> Layout:
    arrays = {"crop": np.array([crop]), "box": np.array([box]), "background": np.array([0]), "flip": np.array([mirrored])}
    return Layout(**arrays, canvas=canvas)


def edges_of(mask: Tensor) -> list[int]:
    """Tight x1 y1 x2 y2 of the true pixels."""
    ys, xs = np.nonzero(mask.numpy())
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


@pytest.mark.parametrize("size", [(64, 64), (90, 41), (17, 130), (1, 1), (2, 3), (1, 40), (65, 2)])
def test_composites_equal_those_of_a_slow_bilinear_within_a_level(size: tuple[int, int]) -> None:
    sizes = np.tile(size, (4, 1))
    layout = draw_layout(sizes, 4, 64, (32, 62), uniforms(1, 0, np.arange(4), 0, VIEW_UNIFORMS))
    backgrounds, foregrounds = [noise(i, size) for i in range(4)], [noise(9 + i, size) for i in range(4)]
    composites = paste(backgrounds, foregrounds, layout).numpy()
    slow = [slow_composite(backgrounds[i].numpy(), foregrounds[i].numpy(), layout, i) for i in range(4)]
    assert np.abs(composites - np.rint(np.stack(slow))).max() <= 1
    assert np.abs(composites - np.stack(slow)).mean() < 0.4


@pytest.mark.parametrize("size_wh", [(31, 47), (64, 64), (200, 150), (1, 5)])
def test_resize_rounds_a_plain_bilinear_to_eight_bit(size_wh: tuple[int, int]) -> None:
    image = noise(3, size_wh)
    assert np.abs(resize_plain(image, (40, 56)).numpy() - np.rint(slow_bilinear(image.numpy(), 40, 56))).max() <= 1


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = noise(4, (37, 53))
    assert torch.equal(resize_plain(image, (53, 37)), image)


def test_a_crop_is_enlarged_from_its_own_pixels_only() -> None:
    foreground = torch.zeros(3, 20, 20, dtype=torch.uint8)
    foreground[:, 5:15, 5:15] = 200  # the crop; one pixel beyond it would darken the border
    composite = paste([noise(0, (9, 9))], [foreground], one([5, 5, 15, 15], [3, 4, 60, 61]))
    assert (composite[0, :, 4:61, 3:60] == 200).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_meet_the_pasted_pixels_exactly(mirrored: bool) -> None:
    for row in range(30):
        drawn = draw_layout(np.array([[50, 37]]), 9, 64, (32, 62), uniforms(2, 0, np.array([row]), 0, VIEW_UNIFORMS))
        layout = one(drawn.crop[0].tolist(), drawn.box[0].tolist(), mirrored=mirrored)
        black, white = torch.zeros(3, 30, 40, dtype=torch.uint8), torch.full((3, 37, 50), 255, dtype=torch.uint8)
        composite = paste([black], [white], layout)
        mirror(composite, layout.flip)
        assert set(composite.unique().tolist()) == {0, 255}  # hard: no blending
        assert edges_of(composite[0, 0] == 255) == layout.final_boxes()[0].tolist()


def test_only_the_chosen_views_are_mirrored() -> None:
    images = torch.stack([noise(1, (64, 64)), noise(2, (64, 64)), noise(3, (64, 64))])
    mirrored = images.clone()
    mirror(mirrored, np.array([False, True, False]))
    assert torch.equal(mirrored[[0, 2]], images[[0, 2]])
    assert torch.equal(mirrored[1], images[1].flip(2)) and not torch.equal(mirrored[1], images[1])
    mirror(mirrored, np.array([False, False, False]))
    assert torch.equal(mirrored[1], images[1].flip(2))


def test_no_image_gives_no_composite() -> None:
    empty = Layout(
        background=np.zeros(0, np.int64),
        crop=np.zeros((0, 4), np.int64),
        box=np.zeros((0, 4), np.int64),
        flip=np.zeros(0, bool),
        canvas=64,
    )
    assert paste([], [], empty).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("box", [[-1, 0, 30, 30], [0, 0, 65, 30], [0, 40, 30, 65], [0, -3, 30, 30]])
def test_a_box_that_leaves_the_canvas_is_refused(box: list[int]) -> None:
    with pytest.raises(ValueError, match="leaves the 64 px canvas"):
        paste([noise(0, (8, 8))], [noise(1, (8, 8))], one([0, 0, 8, 8], box))


def test_the_images_that_are_given_are_left_alone() -> None:
    background, foreground = noise(0, (64, 64)), noise(1, (20, 20))
    before = background.clone(), foreground.clone()
    paste([background], [foreground], one([0, 0, 20, 20], [5, 5, 40, 40]))
    assert torch.equal(background, before[0]) and torch.equal(foreground, before[1])
