"""Whether a network can do a task at all: tried on zeros before any image is read, and answered in words.

A network made for one input size, without a stride-16 map or without a last stage of its own is no mistake of the user:
the task gives a record that says "not applicable" and why, and the run goes on.
"""

from dataclasses import dataclass

import torch
from torch import nn

from insloc_eval.job import NotApplicable
from insloc_hub.data.transform import resize
from insloc_hub.encoders.backbone import last_stage_name
from insloc_hub.errors import InslocError
from insloc_hub.models.extractor import Extractor
from insloc_hub.shapes import UInt8

PROBE_PX = 8  # below the shortest side of any query
REFUSALS = (RuntimeError, AssertionError)  # a layer that would give a map of size zero; timm's own checks of the input size


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Which input sides in pixels a network takes."""

    least: int
    multiple: int
    """Sides must be a multiple of this: 1 in a CNN, the patch size in a ViT."""

    def fit(self, h: int, w: int) -> tuple[int, int]:
        """Height and width that the network takes: aspect kept where only the short side is too small.

        >>> Sides(least=32, multiple=1).fit(10, 20), Sides(least=16, multiple=16).fit(40, 55)
        ((32, 64), (48, 64))
        """
        factor = max(1.0, self.least / min(h, w))
        tall, wide = (max(self.least, round(side * factor)) for side in (h, w))
        return -(-tall // self.multiple) * self.multiple, -(-wide // self.multiple) * self.multiple


def need_input(extractor: Extractor, size_px: int) -> None:
    """NotApplicable: the network takes no square input of this side."""
    try:
        extractor.forward(torch.zeros(1, 3, size_px, size_px), [max(extractor.channels)], pooled=False)
    except REFUSALS as error:
        raise NotApplicable(f"{extractor.arch} takes no input of {size_px} x {size_px} px: {_first_line(error)}") from None


def need_stride(extractor: Extractor, stride: int) -> None:
    """NotApplicable: the network has no map of this stride."""
    if stride not in extractor.channels:
        raise NotApplicable(f"{extractor.arch} has no map of stride {stride}; it has {sorted(extractor.channels)}")


def need_last_stage(extractor: Extractor) -> nn.Module:
    """The module between the stride-16 and the stride-32 map. NotApplicable: there is no single one."""
    try:
        return extractor.model.get_submodule(last_stage_name(extractor.model, extractor.arch))
    except InslocError as error:
        raise NotApplicable(str(error)) from None
    except REFUSALS as error:
        raise NotApplicable(f"{extractor.arch} can't be tried for a last stage: {_first_line(error)}") from None


def sides_of(extractor: Extractor, strides: list[int]) -> Sides:
    """Which sides the network takes up to the maps of `strides`: any, whole strides only, or none below a stride."""
    largest = max(strides)
    if _takes(extractor, strides, PROBE_PX):
        return Sides(least=1, multiple=1)
    if _takes(extractor, strides, largest + 1):
        return Sides(least=largest, multiple=1)
    return Sides(least=largest, multiple=largest)


def fitted(pixels: UInt8[torch.Tensor, "3 h w"], sides: Sides) -> UInt8[torch.Tensor, "3 hh ww"]:
    """The same picture in a size that the network takes; untouched where it takes it as it is."""
    size = sides.fit(*pixels.shape[1:])
    return pixels if size == tuple(pixels.shape[1:]) else resize(pixels, size)


def _takes(extractor: Extractor, strides: list[int], side: int) -> bool:
    try:
        extractor.forward(torch.zeros(1, 3, side, side), strides, pooled=False)
    except REFUSALS:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
