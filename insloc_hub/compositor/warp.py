"""Rectangles of a batch of images -> rectangles of their canvases, by two matrix products each: for accelerators.

Both bilinear rules of the house are triangles around the source position of an output pixel, cut off at the rectangle's
border and normalised: one pixel wide each way (plain), or as wide as the reduction (antialiased, Pillow's).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from insloc_hub.compositor.geometry import Ints
from insloc_hub.shapes import Float, UInt8


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Where pixels come from and go to, for each of b images."""

    source: Ints
    """[b 4] XYXY in the image, whole pixels."""
    target: Ints
    """[b 4] XYXY on the canvas."""
    side: int
    """Of the canvas."""
    antialias: bool


def warp(images: Sequence[UInt8[Tensor, "3 _ _"]], placed: Placed) -> UInt8[Tensor, "b 3 s s"]:
    """Canvases with the source rectangles resized into their targets, 0 elsewhere. Images may differ in size."""
    batch = _padded(images).float()
    source, target = (torch.from_numpy(boxes).to(batch) for boxes in (placed.source, placed.target))
    across = triangles(source[:, ::2], target[:, ::2], batch.shape[3], placed)
    down = triangles(source[:, 1::2], target[:, 1::2], batch.shape[2], placed)
    made: Tensor = down[:, None] @ batch @ across[:, None].transpose(2, 3)
    return made.round_().to(torch.uint8)


def triangles(
    source: Float[Tensor, "b 2"], target: Float[Tensor, "b 2"], length: int, placed: Placed
) -> Float[Tensor, "b s n"]:
    """Weights of `length` source pixels for each canvas pixel along one axis; rows outside the target are 0."""
    low, high = (edge[:, None, None] for edge in source.T)
    start, end = (edge[:, None] for edge in target.T)
    out = torch.arange(placed.side, device=source.device)
    scale = ((high - low)[:, :, 0] / (end - start))[..., None]
    at = low + (out - start + 0.5)[..., None] * scale - 0.5  # half-pixel centres
    reach = scale.clamp(min=1) if placed.antialias else torch.ones_like(scale)
    pixel = torch.arange(length, device=source.device)
    weights = (1 - (pixel - at).abs() / reach).clamp(min=0) * ((pixel >= low) & (pixel < high))
    inside = (out >= start) & (out < end)
    made: Tensor = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6) * inside[..., None]
    return made


def _padded(images: Sequence[Tensor]) -> Tensor:
    """[b 3 h w] of the largest height and width; the rest is never read."""
    h, w = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if all(image.shape[1:] == (h, w) for image in images):
        return torch.stack(list(images))
    batch = images[0].new_zeros(len(images), 3, h, w)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch
