"""The full RoIAlign grid of boxes, as the region encoders pool it (paper.md A.3, A.6)."""

import torch
from torch import Tensor
from torchvision.ops import roi_align

from insloc_hub.shapes import Float


def one_each(boxes: Float[Tensor, "b 4"]) -> Float[Tensor, "b 5"]:
    """RoIs of one box per image: its number, then XYXY."""
    return torch.cat([torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None], boxes], dim=1)


def roi_grid(
    maps: Float[Tensor, "b c h w"], rois: Float[Tensor, "n 5"], stride: int, size: int
) -> Float[Tensor, "n c size size"]:
    """RoIAlign, aligned and adaptive, on maps of this stride; a row of `rois` is the number of its map, then XYXY in pixels."""
    grid: Tensor = roi_align(maps, rois.to(maps.dtype), size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
    return grid
