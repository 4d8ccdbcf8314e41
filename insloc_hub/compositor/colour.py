"""Batched colour jitter, grey and blur of whole composites; nothing that moves a box (paper.md A.1.4).

The four jitter steps and the grey step are affine in RGB, so each image gets one 3 x 4 matrix, composed in its drawn
order; the contrast step's grey mean is carried through exactly, since a mean of affine images is the affine of the
mean. Two departures from Pillow's 8-bit chain: hue turns by a linear rotation of the chroma plane instead of HSV, and
values are clipped once at the end instead of after every step.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insloc_hub import paper
from insloc_hub.compositor.geometry import Floats
from insloc_hub.shapes import Bool, Float, Int, UInt8

COLOUR_UNIFORMS = 12
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's "L"
# RGB -> YIQ (ITU-R 601): the plane in which hue is an angle.
TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@dataclass(frozen=True, kw_only=True, slots=True)
class Colour:
    """What was drawn for each of b images."""

    jitter: Bool[Tensor, " b"]
    factors: Float[Tensor, "b 4"]
    """Brightness, contrast and saturation factors (1 = unchanged); hue in turns (0 = unchanged)."""
    order: Int[Tensor, "b 4"]
    """The step (column of `factors`) to take first, second, ..."""
    grey: Bool[Tensor, " b"]
    sigma: Float[Tensor, " b"]
    """Of the blur in pixels; 0 = none."""


def draw_colour(numbers: Floats, blur_sigma: tuple[float, float]) -> Colour:
    """From uniforms [b COLOUR_UNIFORMS]: jitter?, four factors, order (their ranks), grey?, blur?, sigma."""
    strengths = [paper.JITTER_BRIGHTNESS, paper.JITTER_CONTRAST, paper.JITTER_SATURATION]
    spread = 2 * numbers[:, 1:5] - 1
    factors = np.concatenate([1 + spread[:, :3] * strengths, spread[:, 3:] * paper.JITTER_HUE], axis=1)
    low, high = blur_sigma
    sigma = np.where(numbers[:, 10] < paper.BLUR_PROBABILITY, low + numbers[:, 11] * (high - low), 0.0)
    return Colour(
        jitter=torch.from_numpy(numbers[:, 0] < paper.JITTER_PROBABILITY),
        factors=torch.from_numpy(factors).float(),
        order=torch.from_numpy(numbers[:, 5:9].argsort(axis=1)),
        grey=torch.from_numpy(numbers[:, 9] < paper.GREY_PROBABILITY),
        sigma=torch.from_numpy(sigma).float(),
    )


def apply_colour(images: UInt8[Tensor, "b 3 h w"], colour: Colour) -> Float[Tensor, "b 3 h w"]:
    """Jittered, greyed and blurred images as floats in 0..255."""
    pixels = images.float()
    matrix, offset = colour_affine(pixels.mean(dim=(2, 3)), colour)
    flat = torch.baddbmm(offset[:, :, None], matrix, pixels.flatten(2))
    return blur(flat.clamp_(0, 255).view_as(pixels), colour.sigma)


def colour_affine(mean: Float[Tensor, "b 3"], colour: Colour) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """Matrix and offset per image for pixels in 0..255; `mean` is each image's mean colour, which contrast needs."""
    b = len(mean)
    identity = torch.eye(3, device=mean.device).expand(b, 3, 3)
    luma = torch.tensor(LUMA, device=mean.device).expand(3, 3)
    matrix, offset = identity, torch.zeros_like(mean)
    factors = torch.where(colour.jitter[:, None], colour.factors, torch.tensor([1.0, 1.0, 1.0, 0.0])).to(mean)
    order = colour.order.to(mean.device)
    for place in range(4):
        kind = order[:, place]
        brightness, contrast, saturation = (torch.where(kind == k, factors[:, k], 1.0)[:, None] for k in range(3))
        turn = torch.where(kind == 3, factors[:, 3], 0.0)
        step = brightness[:, :, None] * contrast[:, :, None] * _saturation(saturation[:, :, None], identity, luma)
        step = _hue(turn) @ step
        grey_mean = (torch.einsum("bij,bj->bi", matrix, mean) + offset) @ luma[0]
        matrix = step @ matrix
        offset = torch.einsum("bij,bj->bi", step, offset) + (1 - contrast) * grey_mean[:, None]
    to_grey = torch.where(colour.grey.to(mean.device)[:, None, None], luma, identity)
    return to_grey @ matrix, torch.einsum("bij,bj->bi", to_grey, offset)


def blur(images: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
    """Separable Gaussian of each image's own sigma in pixels (0 = untouched), edges repeated."""
    chosen = (sigma > 0).nonzero().flatten()
    if not len(chosen):
        return images
    radius = max(1, math.ceil(3 * float(sigma.max())))
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    own = sigma[chosen].to(images)[:, None]
    # Each image ends at its own three sigma: a view must not depend on the widest blur of its batch.
    kernel = torch.exp(-0.5 * (taps / own) ** 2) * (taps.abs() <= (3 * own).ceil())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)  # [3n taps]
    n, (h, w) = len(kernel), images.shape[2:]
    planes = images[chosen.to(images.device)].reshape(1, n, h, w)
    padded = torch.nn.functional.pad(planes, (radius, radius, radius, radius), mode="replicate")
    across = torch.nn.functional.conv2d(padded, kernel[:, None, None, :], groups=n)
    down = torch.nn.functional.conv2d(across, kernel[:, None, :, None], groups=n)
    result = images.clone()
    result[chosen.to(images.device)] = down.view(-1, 3, h, w)
    return result


def _saturation(factor: Tensor, identity: Tensor, luma: Tensor) -> Tensor:
    return factor * identity + (1 - factor) * luma


def _hue(turns: Float[Tensor, " b"]) -> Float[Tensor, "b 3 3"]:
    to_yiq = torch.tensor(TO_YIQ, device=turns.device)
    angle = -2 * math.pi * turns  # the YIQ plane runs the other way round than HSV's hue: red, magenta, blue
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rotation = torch.stack([one, zero, zero, zero, angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos()], dim=1).view(
        -1, 3, 3
    )
    turned: Tensor = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return turned
