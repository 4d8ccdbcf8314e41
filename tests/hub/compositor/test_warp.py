"""The accelerator's way of making views, run on a CPU: within a level of the one-by-one way, and of Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from insloc_hub.compositor.crops import CROPPED_UNIFORMS, cut, cut_at_once, draw_crops
from insloc_hub.compositor.geometry import VIEW_UNIFORMS, draw_layout, uniforms
from insloc_hub.compositor.paste import paste, paste_at_once
from insloc_hub.compositor.warp import Placed, warp

SIZES = [(64, 64), (90, 41), (17, 130), (200, 150), (33, 20)]


def noise(seed: int, size_wh: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, size_wh[1], size_wh[0]), generator=generator, dtype=torch.uint8)


def levels(a: Tensor, b: Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def test_composites_at_once_are_those_made_one_by_one_within_a_level() -> None:
    foregrounds, backgrounds = ([noise(k + first, size) for k, size in enumerate(SIZES)] for first in (0, 50))
    numbers = uniforms(0, 0, np.arange(len(SIZES)), 0, VIEW_UNIFORMS)
    layout = draw_layout(np.array(SIZES), len(SIZES), 128, (64, 126), numbers)
    slow, fast = paste(backgrounds, foregrounds, layout), paste_at_once(backgrounds, foregrounds, layout)
    assert slow.shape == fast.shape == (5, 3, 128, 128) and levels(slow, fast) <= 1
    assert levels(slow, paste_at_once(foregrounds, backgrounds, layout)) > 100  # it can fail


def test_crops_at_once_are_those_made_one_by_one_within_a_level() -> None:
    images = [noise(k, size) for k, size in enumerate(SIZES)]
    layout = draw_crops(np.array(SIZES), 112, uniforms(1, 0, np.arange(len(SIZES)), 0, CROPPED_UNIFORMS))
    assert levels(cut(images, layout), cut_at_once(images, layout)) <= 1


@pytest.mark.parametrize("target", [(24, 40), (150, 90), (33, 20)])
def test_an_antialiased_rectangle_is_pillows_within_a_level(target: tuple[int, int]) -> None:
    image, box = noise(3, (120, 80)), (10, 5, 101, 72)
    placed = Placed(source=np.array([box]), target=np.array([[7, 9, 7 + target[0], 9 + target[1]]]), side=160, antialias=True)
    made = warp([image], placed)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box).resize(target, Image.Resampling.BILINEAR)
    inside = made[:, 9 : 9 + target[1], 7 : 7 + target[0]]
    assert levels(inside, torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)) <= 1
    outside = made.clone()
    outside[:, 9 : 9 + target[1], 7 : 7 + target[0]] = 0
    assert int(outside.max()) == 0
