"""The house's only transforms: RGB pixels -> network input, and the affine that carries boxes along (contracts.md 4).

`eval` is timm's own transform of the model (Pillow), for whole-image vectors. `whole` resizes both sides to the input
size, aspect not kept, so that no box is cut off. `whole:N` brings the short side to N, aspect kept, sides rounded up to
the coarsest stride, padded with zeros on the right and below. A request or a feature set uses exactly one of them.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from insloc_hub.errors import InslocError
from insloc_hub.shapes import Float, UInt8

STRIDE = 32  # the coarsest map of the CNNs we take
NAMES = "eval, whole or whole:N (N = pixels of the short side)"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFacts:
    """What the weights were made for: a card's pretrained_cfg."""

    size: tuple[int, int]
    """Height, width."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    crop_mode: str = "center"


LEVELS = InputFacts(size=(0, 0), mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
"""By which normalised pixels are 0..255 again: for eyes and for tests."""


@dataclass(frozen=True, slots=True)
class Affine:
    """x' = x * sx + tx, y' = y * sy + ty: pixels of the original -> pixels of the network input."""

    sx: float
    sy: float
    tx: float = 0.0
    ty: float = 0.0

    def boxes(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Carry XYXY boxes along, in float64: a huge coordinate must not lose its place. InslocError: `NO_AFFINE`."""
        if math.isnan(self.sx):
            raise InslocError("boxes need the transform 'whole' here: this model's own transform is not a square centre crop")
        scale = boxes.new_tensor([self.sx, self.sy, self.sx, self.sy], dtype=torch.float64)
        shift = boxes.new_tensor([self.tx, self.ty, self.tx, self.ty], dtype=torch.float64)
        return (boxes.double() * scale + shift).float()


NO_AFFINE = Affine(math.nan, math.nan)  # of an input whose boxes nobody can carry


@dataclass(frozen=True, slots=True)
class Transform:
    """One transform for one model; `name` stands in every record and answer."""

    name: str
    facts: InputFacts
    size: int | None = None
    """Side (whole) or short side (whole:N) in pixels; None takes the model's own input size."""

    def __call__(self, image: UInt8[Tensor, "3 h w"]) -> tuple[Float[Tensor, "3 hh ww"], Affine]:
        """Normalised input and the affine of its boxes."""
        if self.name == "eval":
            return _eval(image, self.facts)
        if self.name == "whole":
            size = self.facts.size if self.size is None else (self.size, self.size)
            return _whole(image, self.facts, size)
        return _short_side(image, self.facts, int(self.name.split(":")[1]))


def make_transform(name: str, facts: InputFacts, size: int | None = None) -> Transform:
    """The transform called `name`. `size` sets another side for `whole` only. InslocError: no such name."""
    if name not in ("eval", "whole") and not re.fullmatch(r"whole:[1-9]\d{1,3}", name):
        raise InslocError(f"unknown transform {name!r}; there are {NAMES}")
    return Transform(name, facts, size)


def input_facts(config: dict[str, Any]) -> InputFacts:
    """From timm's resolved data config (timm.data.resolve_model_data_config)."""
    _, h, w = config["input_size"]
    mean, std = (tuple(float(v) for v in config[key]) for key in ("mean", "std"))
    return InputFacts(
        size=(h, w),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )


def normalise(pixels: Tensor, facts: InputFacts) -> Tensor:
    """uint8 or float pixels in 0..255 [... 3 h w] -> float32 (x / 255 - mean) / std."""
    mean = torch.tensor(facts.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(facts.std, device=pixels.device).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def resize(image: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "3 hh ww"]:
    """uint8, bilinear, antialiased; `size` is height, width."""
    result: Tensor = F.resize(image, list(size), interpolation=F.InterpolationMode.BILINEAR, antialias=True)
    return result


def resize_plain(image: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "3 hh ww"]:
    """uint8, bilinear without antialias: half-pixel centres, edge pixels repeated; `size` is height, width.

    The released compositor's (paper.md A.1.1, A.1.2).
    """
    if tuple(image.shape[1:]) == size:
        return image
    pixels = image[None]
    if image.is_cuda:  # torch has no 8-bit bilinear there
        return _bilinear(pixels.float(), size).round().to(torch.uint8)
    return _bilinear(pixels, size)


def _bilinear(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]


def _whole(image: Tensor, facts: InputFacts, size: tuple[int, int]) -> tuple[Tensor, Affine]:
    h, w = image.shape[1:]
    return normalise(resize(image, size), facts), Affine(size[1] / w, size[0] / h)


def _short_side(image: Tensor, facts: InputFacts, short: int) -> tuple[Tensor, Affine]:
    h, w = image.shape[1:]
    scale = short / min(h, w)
    hh, ww = max(1, round(h * scale)), max(1, round(w * scale))
    pixels = normalise(resize(image, (hh, ww)), facts)
    padded = torch.nn.functional.pad(pixels, (0, -ww % STRIDE, 0, -hh % STRIDE))
    return padded, Affine(ww / w, hh / h)


def _eval(image: Tensor, facts: InputFacts) -> tuple[Tensor, Affine]:
    # timm's transform, by timm: imported here since it costs seconds and only this branch wants it.
    from timm.data import create_transform

    pipeline = create_transform(
        input_size=(3, *facts.size),
        mean=facts.mean,
        std=facts.std,
        interpolation=facts.interpolation,
        crop_pct=facts.crop_pct,
        crop_mode=facts.crop_mode,
        is_training=False,
    )
    return pipeline(F.to_pil_image(image)), _eval_affine(image, facts)


def _eval_affine(image: Tensor, facts: InputFacts) -> Affine:
    """Of the usual case: square input, short side resized, centre crop. Others can't carry boxes."""
    h, w = image.shape[1:]
    if facts.crop_mode != "center" or facts.size[0] != facts.size[1]:
        return NO_AFFINE
    side = facts.size[0]
    short = int(side / facts.crop_pct)  # torchvision's rounding, which timm uses
    hh, ww = (short, int(short * w / h)) if h <= w else (int(short * h / w), short)
    return Affine(ww / w, hh / h, -round((ww - side) / 2.0), -round((hh - side) / 2.0))
