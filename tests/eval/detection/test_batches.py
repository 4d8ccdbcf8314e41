"""What a step is given: an order from the seed, boxes and masks that follow their pixels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from insloc_eval.detection.batches import at_size, batches_of, pixels_of, plan, trainable, view
from insloc_eval.detection.data import Sample
from insloc_eval.protocols.detection import Detection
from insloc_hub.errors import InslocError

Make = Callable[..., Detection]
Pictures = Callable[..., list[Sample]]


def test_the_order_is_a_function_of_the_seed_and_a_longer_plan_goes_on(pictures: Pictures) -> None:
    samples = pictures(9)
    first = plan(samples, 2, 3, 12)
    assert first.shape == (12, 2) and np.array_equal(first, plan(samples, 2, 3, 12))
    assert np.array_equal(first, plan(samples, 2, 3, 20)[:12]) and not np.array_equal(first, plan(samples, 2, 4, 12))


def test_a_batch_is_of_one_shape_and_every_picture_comes_equally_often(pictures: Pictures) -> None:
    samples = pictures(9)
    order = plan(samples, 2, 0, 90)
    assert all(len({samples[i].size_wh[0] >= samples[i].size_wh[1] for i in row}) == 1 for row in order)
    counts = np.bincount(order.ravel(), minlength=9)
    assert counts.min() >= 18 and counts.max() <= 22  # 180 visits of 9 pictures: 20 each, but for what waits in a bucket


def test_only_crowds_are_nothing_to_learn_from(pictures: Pictures) -> None:
    one, other = pictures(2)
    crowded = replace(one, crowd=torch.tensor([True, True]))
    assert trainable([crowded, other]) == [other]
    with pytest.raises(InslocError, match="no image has an annotated object"):
        trainable([crowded])


def inside(target: dict[str, Tensor], image: Tensor) -> list[list[float]]:
    """Mean red and blue inside each box, shrunk a little."""
    rows = []
    for x1, y1, x2, y2 in target["boxes"].tolist():
        cut = image[:, int(y1) + 6 : int(y2) - 5, int(x1) + 6 : int(x2) - 5].float()
        rows.append([cut[0].mean().item(), cut[2].mean().item()])
    return rows


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("short", [64, 100])
def test_boxes_and_masks_follow_the_pixels(tiny: Make, pictures: Pictures, flip: bool, short: int) -> None:
    sample = pictures(2)[1]
    image, target = view(sample, tiny(mask=True, longest_px=500), short, flip)
    assert image.dtype == torch.uint8 and image.shape == (3, round(96 * short / 64), short)
    assert target["labels"].tolist() == [1, 2] and target["masks"].shape == (2, *image.shape[1:])
    (red, no_blue), (no_red, blue) = inside(target, image)
    assert red > 200 and blue > 200 and no_blue < 60 and no_red < 60
    is_red, is_blue = ((image[c].float() > 170).float() for c in (0, 2))
    for mask, colour in zip(target["masks"].float(), (is_red, is_blue), strict=True):
        assert (mask * colour).sum() / torch.maximum(mask, colour).sum() > 0.85


def test_a_crowd_is_left_out_of_the_target(tiny: Make, pictures: Pictures) -> None:
    sample = replace(pictures(1)[0], crowd=torch.tensor([True, False]))
    _, target = view(sample, tiny(mask=True), 64, False)
    assert target["labels"].tolist() == [2] and len(target["boxes"]) == len(target["masks"]) == 1


def test_masks_that_are_to_be_learnt_must_be_there(tiny: Make, pictures: Pictures) -> None:
    sample = replace(pictures(1)[0], masks=None)
    with pytest.raises(InslocError, match=r"0\.png: has boxes but no masks.* take a protocol without masks"):
        view(sample, tiny(mask=True), 64, False)
    assert "masks" not in view(sample, tiny(), 64, False)[1]


def test_the_longer_side_holds_the_shorter_back() -> None:
    image = torch.zeros(3, 50, 200, dtype=torch.uint8)
    resized, (sx, sy) = at_size(image, 100, 300)
    assert resized.shape == (3, 75, 300) and (sx, sy) == (1.5, 1.5)
    assert at_size(image, 50, 300)[0] is image


def test_run_lengths_of_every_form_are_the_same_pixels() -> None:
    whole = [[0.0, 0, 4, 0, 4, 3, 0, 3]]
    runs: dict[str, Any] = {"size": [3, 6], "counts": [0, 12, 6]}  # column by column: four of three pixels, then none
    assert torch.equal(pixels_of(whole, (6, 3)), pixels_of(runs, (6, 3)))
    assert pixels_of(runs, (6, 3)).tolist() == [[1, 1, 1, 1, 0, 0]] * 3


def test_a_batch_depends_on_seed_and_step_alone(tiny: Make, pictures: Pictures) -> None:
    samples = pictures(6)
    protocol = tiny(train_short_px=(48, 64, 80))
    make = batches_of(samples, protocol, 1, 10)
    again, first = make(7), batches_of(samples, protocol, 1, 10)(7)
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    sides = {min(image.shape[1:]) for step in range(10) for image in make(step).images}
    assert sides == {48, 64, 80}
