"""Transforms: timm's own bit for bit, and affines that carry a box to the pixels it was drawn around."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from insloc_hub.data.transform import Affine, InputFacts, input_facts, make_transform, normalise
from insloc_hub.errors import InslocError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FACTS = InputFacts(size=(96, 96), mean=MEAN, std=STD)
SIZES = [(80, 60), (60, 80), (200, 200), (333, 47), (31, 500), (96, 96), (110, 109), (1024, 683)]


def noise(w: int, h: int) -> Tensor:
    return torch.randint(0, 256, (3, h, w), generator=torch.Generator().manual_seed(w * h), dtype=torch.uint8)


def marked(w: int, h: int, box: tuple[int, int, int, int]) -> Tensor:
    """Black, with a white rectangle."""
    image = torch.zeros(3, h, w, dtype=torch.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    return image


def levels(pixels: Tensor) -> np.ndarray:
    """Undo the normalisation: green, 0..1."""
    return (pixels[1] * STD[1] + MEAN[1]).numpy()


def edges(profile: np.ndarray) -> tuple[float, float]:
    """Sub-pixel ends of a bright run: where the profile crosses a half, pixel i covering i..i + 1."""
    inside = np.flatnonzero(profile > 0.5)
    first, last = inside[0], inside[-1]

    def crossing(dark: int, bright: int) -> float:
        if not 0 <= dark < len(profile):
            return float(bright + (dark > bright))
        share = (profile[bright] - 0.5) / (profile[bright] - profile[dark])
        return bright + 0.5 + (dark - bright) * share

    return crossing(first - 1, first), crossing(last + 1, last)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
def test_eval_is_timms_transform_bit_for_bit(size: tuple[int, int], interpolation: str, crop_pct: float) -> None:
    facts = InputFacts(size=(96, 96), mean=MEAN, std=STD, interpolation=interpolation, crop_pct=crop_pct)
    theirs = create_transform((3, 96, 96), mean=MEAN, std=STD, interpolation=interpolation, crop_pct=crop_pct)
    image = noise(*size)
    ours, _ = make_transform("eval", facts)(image)
    assert torch.equal(ours, theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))


def test_the_facts_of_a_model_are_those_that_timm_resolves() -> None:
    config = resolve_model_data_config(timm.create_model("convnext_atto"))
    facts, image = input_facts(config), noise(150, 90)
    theirs = create_transform(**config)
    assert torch.equal(make_transform("eval", facts)(image)[0], theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_eval_follows_timm_in_other_crop_modes_too_but_carries_no_boxes(mode: str) -> None:
    facts = InputFacts(size=(96, 96), mean=MEAN, std=STD, crop_mode=mode)
    theirs = create_transform((3, 96, 96), mean=MEAN, std=STD, interpolation="bilinear", crop_pct=0.875, crop_mode=mode)
    image = noise(150, 90)
    ours, affine = make_transform("eval", facts)(image)
    assert torch.equal(ours, theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))
    with pytest.raises(InslocError, match="boxes need the transform 'whole' here"):
        affine.boxes(torch.tensor([[1.0, 2, 3, 4]]))


@pytest.mark.parametrize("name", ["eval", "whole", "whole:96", "whole:150"])
@pytest.mark.parametrize("size", [(80, 60), (60, 80), (233, 170), (96, 96)])
def test_a_carried_box_meets_the_pixels_it_was_drawn_around(name: str, size: tuple[int, int]) -> None:
    w, h = size
    box = (w // 2 - w // 7, h // 2 - h // 5, w // 2 + w // 6, h // 2 + h // 8)
    pixels, affine = make_transform(name, FACTS)(marked(w, h, box))
    x1, y1, x2, y2 = affine.boxes(torch.tensor([box]).float())[0].tolist()
    seen = levels(pixels)
    middle_x, middle_y = int((x1 + x2) / 2), int((y1 + y2) / 2)
    assert edges(seen[middle_y]) == pytest.approx((x1, x2), abs=0.35)
    assert edges(seen[:, middle_x]) == pytest.approx((y1, y2), abs=0.35)


@pytest.mark.parametrize("size", SIZES)
def test_whole_takes_corners_to_corners(size: tuple[int, int]) -> None:
    w, h = size
    pixels, affine = make_transform("whole", FACTS)(noise(w, h))
    assert pixels.shape == (3, 96, 96)
    assert affine.boxes(torch.tensor([[0.0, 0, w, h]]))[0].tolist() == pytest.approx([0, 0, 96, 96], abs=1e-4)


def test_whole_keeps_each_side_of_the_models_own_input_apart() -> None:
    pixels, affine = make_transform("whole", InputFacts(size=(64, 128), mean=MEAN, std=STD))(noise(50, 70))
    assert pixels.shape == (3, 64, 128)
    assert affine.boxes(torch.tensor([[0.0, 0, 50, 70]]))[0].tolist() == pytest.approx([0, 0, 128, 64], abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("short", [32, 100])
def test_whole_n_brings_the_short_side_to_n_and_pads_right_and_below(size: tuple[int, int], short: int) -> None:
    w, h = size
    pixels, affine = make_transform(f"whole:{short}", FACTS)(noise(w, h))
    x1, y1, x2, y2 = affine.boxes(torch.tensor([[0.0, 0, w, h]]))[0].tolist()
    assert (x1, y1) == (0, 0) and min(x2, y2) == pytest.approx(short, abs=1e-3)
    assert x2 / y2 == pytest.approx(w / h, rel=0.5 / short)
    content_w, content_h = round(x2), round(y2)
    assert (x2, y2) == pytest.approx((content_w, content_h), abs=1e-3)
    assert pixels.shape[1] == -(-content_h // 32) * 32 and pixels.shape[2] == -(-content_w // 32) * 32
    assert (pixels[:, content_h:] == 0).all() and (pixels[:, :, content_w:] == 0).all()
    assert (pixels[:, content_h - 1, :content_w] != 0).any() and (pixels[:, :content_h, content_w - 1] != 0).any()


def test_whole_is_antialiased_bilinear_like_pillows() -> None:
    image = noise(233, 170)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((96, 96), Image.Resampling.BILINEAR)
    ours = make_transform("whole", FACTS)(image)[0]
    back = (ours * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255
    assert (back.permute(1, 2, 0).numpy() - np.asarray(pillow)).__abs__().max() <= 1.01


def test_a_size_of_its_own_is_taken_for_whole() -> None:
    assert make_transform("whole", FACTS, 128)(noise(50, 70))[0].shape == (3, 128, 128)


def test_normalisation_is_x_over_255_minus_mean_over_std() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    values = normalise(pixels, FACTS)[:, 0, 0].tolist()
    assert values == pytest.approx([-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225], rel=1e-6)


def test_an_affine_moves_corners_in_double_precision_and_takes_no_box() -> None:
    affine = Affine(0.5, 2.0, -3.0, 10.0)
    assert affine.boxes(torch.tensor([[2.0, 4, 6, 8]])).tolist() == [[-2, 18, 0, 26]]
    assert affine.boxes(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize(
    "name", ["", "Whole", "whole:", "whole:0", "whole:1e3", "whole:-5", "whole: 96", "eval:96", "crop", "whole:123456"]
)
def test_an_unknown_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(InslocError, match="eval, whole or whole:N"):
        make_transform(name, FACTS)
