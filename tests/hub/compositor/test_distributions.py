"""What 2,000 draws do to one picture, against MoCo v2's own chain of torchvision's and Pillow's transforms, drawn apart."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import ColorJitter, Compose, RandomApply, RandomGrayscale

from insloc_hub.compositor.colour import COLOUR_UNIFORMS, FROM_YIQ, TO_YIQ, apply_colour, draw_colour
from insloc_hub.compositor.geometry import uniforms
from insloc_hub.demo.world import draw

DRAWS = 2000
SIGMA = (0.1, 2.0)
ON, NEUTRAL, OFF = 0.0, 0.5, 0.99
JITTER, GREY, BLUR = 0, 9, 10  # columns of the uniforms that decide whether
FACTORS = {"brightness": 1, "contrast": 2, "saturation": 3, "hue": 4}
STRENGTHS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


class PillowBlur:
    """SimCLR's blur as MoCo v2 takes it over: Pillow's, with a sigma drawn evenly."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(*SIGMA))))


def luma_mean(images: np.ndarray) -> np.ndarray:
    return (images @ TO_YIQ[0]).mean(axis=(1, 2))


def luma_spread(images: np.ndarray) -> np.ndarray:
    return (images @ TO_YIQ[0]).std(axis=(1, 2))


def chroma(images: np.ndarray) -> np.ndarray:
    return np.hypot(*np.moveaxis(images @ TO_YIQ[1:].T, -1, 0)).mean(axis=(1, 2))


def hue_angle(images: np.ndarray) -> np.ndarray:
    """Of the mean colour, in turns."""
    mean = images.mean(axis=(1, 2)) @ TO_YIQ[1:].T
    return np.arctan2(mean[:, 1], mean[:, 0]) / (2 * np.pi)


def roughness(images: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(images @ TO_YIQ[0], axis=2)).mean(axis=(1, 2))


STATISTICS = {"brightness": luma_mean, "contrast": luma_spread, "saturation": chroma, "hue": hue_angle, "blur": roughness}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Colourful, and far enough from black and white that no chain clips: clipping is another test's."""
    tint = FROM_YIQ @ np.array([0.0, 12.0, 3.0])
    return (70 + draw(0, 3, 32).pixels / 3.2 + tint).astype(np.uint8)


def ours(picture: np.ndarray, wanted: str) -> np.ndarray:
    numbers = uniforms(5, 0, np.arange(DRAWS), 3, COLOUR_UNIFORMS)
    if wanted == "all but hue":
        numbers[:, FACTORS["hue"]] = NEUTRAL
    elif wanted != "all":
        numbers[:, [JITTER, GREY, BLUR]] = OFF
        if wanted in FACTORS:
            numbers[:, JITTER] = ON
            numbers[:, [column for name, column in FACTORS.items() if name != wanted]] = NEUTRAL
        else:
            numbers[:, {"grey": GREY, "blur": BLUR}[wanted]] = uniforms(5, 0, np.arange(DRAWS), 4, 1)[:, 0]
    images = torch.from_numpy(picture).permute(2, 0, 1).expand(DRAWS, 3, *picture.shape[:2]).contiguous()
    return apply_colour(images, draw_colour(numbers, SIGMA)).permute(0, 2, 3, 1).numpy().astype(float)


def theirs(picture: np.ndarray, wanted: str) -> np.ndarray:
    torch.manual_seed(11)
    blur, grey = RandomApply([PillowBlur()], 0.5), RandomGrayscale(0.2)
    one: dict[str, Callable[[Image.Image], Image.Image]] = {
        "all": Compose([RandomApply([ColorJitter(**STRENGTHS)], 0.8), grey, blur]),
        "all but hue": Compose([RandomApply([ColorJitter(**{**STRENGTHS, "hue": 0})], 0.8), grey, blur]),
        "grey": grey,
        "blur": blur,
    }
    transform = one.get(wanted) or ColorJitter(**{wanted: STRENGTHS[wanted]})
    image = Image.fromarray(picture)
    return np.stack([np.asarray(transform(image)) for _ in range(DRAWS)]).astype(float)


def agree(a: np.ndarray, b: np.ndarray, levels: float) -> None:
    """Mean, spread and extremes: within four standard errors of 2,000 draws each, and `levels` of 8-bit rounding."""
    spread = b.std()
    assert a.mean() == pytest.approx(b.mean(), abs=0.13 * spread + levels)
    assert a.std() == pytest.approx(spread, abs=0.09 * spread + levels)
    for percent in (1, 10, 90, 99):
        assert np.percentile(a, percent) == pytest.approx(np.percentile(b, percent), abs=0.22 * spread + levels)
    assert (a.min(), a.max()) == pytest.approx((b.min(), b.max()), abs=0.5 * spread + levels)


@pytest.mark.parametrize("wanted", ["brightness", "contrast", "saturation", "blur"])
def test_each_step_alone_is_distributed_as_torchvisions_and_pillows(picture: np.ndarray, wanted: str) -> None:
    statistic = STATISTICS[wanted]
    agree(statistic(ours(picture, wanted)), statistic(theirs(picture, wanted)), levels=0.6)


def test_over_all_colours_hue_turns_as_far_as_torchvisions() -> None:
    """A turn in the YIQ plane is none of HSV's hexagon (the named departure): one colour goes further, another less far."""
    around = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    turned: dict[str, list[np.ndarray]] = {"ours": [], "theirs": []}
    for angle in around:
        patch = np.full((2, 2, 3), FROM_YIQ @ np.array([128, 40 * np.cos(angle), 40 * np.sin(angle)])).round().astype(np.uint8)
        for name, made in (("ours", ours), ("theirs", theirs)):
            turn = hue_angle(made(patch, "hue")) - hue_angle(patch[None].astype(float))
            turned[name].append((turn + 0.5) % 1 - 0.5)
    a, b = (np.concatenate(turned[name]) for name in ("ours", "theirs"))
    assert a.mean() == pytest.approx(b.mean(), abs=0.005)
    assert a.std() == pytest.approx(b.std(), rel=0.1)
    assert np.percentile(a, [5, 95]) == pytest.approx(np.percentile(b, [5, 95]), abs=0.02)


def test_as_many_are_grey_and_they_are_the_same_grey(picture: np.ndarray) -> None:
    a, b = ours(picture, "grey"), theirs(picture, "grey")
    grey_a, grey_b = chroma(a) < 1, chroma(b) < 1
    assert grey_a.mean() == pytest.approx(grey_b.mean(), abs=0.04)  # three standard errors of two shares near .2
    assert np.abs(a[grey_a][0] - b[grey_b][0]).max() < 1.01


@pytest.mark.parametrize("statistic", ["brightness", "contrast", "saturation", "blur"])
def test_the_chain_without_hue_is_distributed_as_mocos(picture: np.ndarray, statistic: str) -> None:
    of = STATISTICS[statistic]
    agree(of(ours(picture, "all but hue")), of(theirs(picture, "all but hue")), levels=0.6)


@pytest.mark.parametrize("statistic", ["brightness", "contrast", "saturation", "blur"])
def test_with_hue_the_bulk_of_the_chain_is_mocos_and_a_tail_is_shorter(picture: np.ndarray, statistic: str) -> None:
    """HSV's hue changes the luma and ours does not: of contrast and roughness the last percent reaches less far."""
    a, b = (STATISTICS[statistic](made(picture, "all")) for made in (ours, theirs))
    assert a.mean() == pytest.approx(b.mean(), abs=0.13 * b.std() + 0.6)
    assert a.std() == pytest.approx(b.std(), rel=0.15)
    assert np.percentile(a, [10, 50, 90]) == pytest.approx(np.percentile(b, [10, 50, 90]), abs=0.22 * b.std() + 0.6)
    assert np.percentile(a, 99) == pytest.approx(np.percentile(b, 99), rel=0.2)
