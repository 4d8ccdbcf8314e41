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
from insloc_hub.compositor.blur import blur
from insloc_hub.compositor.geometry import Floats
from insloc_hub.data.transform import LEVELS, InputFacts
from insloc_hub.shapes import Bool, Float, Int, UInt8

COLOUR_UNIFORMS = 12
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's "L"
# RGB -> YIQ (ITU-R 601): the plane in which hue is an angle.
TO_YIQ = np.array([(0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
FROM_YIQ = np.linalg.inv(TO_YIQ)
CONTRAST = 1  # column of a draw's factors
CHUNK = 2**19  # values of the images that are coloured at a time: 2 MB as floats


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


def apply_colour(images: UInt8[Tensor, "b 3 h w"], colour: Colour, facts: InputFacts = LEVELS) -> Float[Tensor, "b 3 h w"]:
    """Jittered, greyed and blurred images, normalised by `facts`: as floats in 0..255 if none are named.

    Clipping, blur and normalisation commute as far as they must: a blur's weights sum to 1, so it may follow the
    normalisation, which then costs nothing but other numbers in the matrix.
    """
    device = images.device
    std, mean = (torch.tensor(values, device=device).view(3, 1) for values in (facts.std, facts.mean))
    matrix, of_mean = (part.to(device) / (255 * std) for part in colour_matrices(colour))
    black, white = -mean / std, (1 - mean) / std
    limits = torch.cat([black, white], dim=1).tolist()
    result = torch.empty(images.shape, device=device)
    # What is worked on must stay in a core's cache; an accelerator wants all of it at once.
    step = max(1, CHUNK // images[0].numel()) if len(images) and device.type == "cpu" else max(1, len(images))
    scratch = torch.empty(step, 3, images[0].numel() // 3 if len(images) else 0, device=device)
    for part in (slice(first, first + step) for first in range(0, len(images), step)):
        made = result[part]
        pixels = scratch[: len(made)].copy_(images[part].flatten(2))
        offset = torch.baddbmm(black, of_mean[part], pixels.mean(dim=2, keepdim=True))
        torch.baddbmm(offset, matrix[part], pixels, out=made.flatten(2))
        for channel, (low, high) in enumerate(limits):  # with tensors as limits it takes twenty times as long
            made[:, channel].clamp_(low, high)
        blur(made, colour.sigma[part])
    return result


def colour_matrices(colour: Colour) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3 3"]]:
    """(A, N) per image: its pixels x become A x + N m, where m is its mean colour, which the contrast step needs.

    Each step maps x to S x + (1 - contrast) grey(mean before it); the mean before it is itself (A + N) m.
    """
    jitter, order = colour.jitter.numpy()[:, None], colour.order.numpy()
    factors = np.where(jitter, colour.factors.double().numpy(), [1.0, 1.0, 1.0, 0.0])
    b = len(factors)
    identity, luma = np.eye(3), np.tile(LUMA, (3, 1))
    scale = factors[:, :3, None, None]
    steps = np.stack(
        [
            scale[:, 0] * identity,
            scale[:, 1] * identity,
            scale[:, 2] * identity + (1 - scale[:, 2]) * luma,
            _hue(factors[:, 3]),
        ],
        axis=1,
    )
    matrix, of_mean = np.broadcast_to(identity, (b, 3, 3)), np.zeros((b, 3, 3))
    for place in range(4):
        kind = order[:, place]
        step = steps[np.arange(b), kind]
        lost = np.where(kind == CONTRAST, 1 - factors[:, CONTRAST], 0.0)[:, None, None]
        of_mean = step @ of_mean + lost * (luma @ (matrix + of_mean))
        matrix = step @ matrix
    to_grey = np.where(colour.grey.numpy()[:, None, None], luma, identity)
    return torch.from_numpy(to_grey @ matrix).float(), torch.from_numpy(to_grey @ of_mean).float()


def _hue(turns: Floats) -> Floats:
    """[b 3 3] rotations of the chroma plane by `turns` [b]."""
    angle = -2 * math.pi * turns  # the YIQ plane runs the other way round than HSV's hue: red, magenta, blue
    rotation = np.zeros((len(turns), 3, 3))
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = np.cos(angle)
    rotation[:, 2, 1] = np.sin(angle)
    rotation[:, 1, 2] = -rotation[:, 2, 1]
    turned: Floats = FROM_YIQ @ rotation @ TO_YIQ
    return turned
