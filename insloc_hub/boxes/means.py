"""Region means of a feature map: RoIAlign's mean as one matrix product (serving.md 6.3, contracts.md 3).

The mean over a RoIAlign grid is linear in the map, and its sampling points form a grid, so the weights split into a row
and a column vector per box: their outer product times the map, one product for all boxes of an image. Equal to
torchvision.ops.roi_align(aligned=True).mean((2, 3)) up to float rounding, at a small share of the cost, and no native
code that a NaN can crash.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from insloc_hub.shapes import Float


def region_means(
    maps: Float[Tensor, "b c h w"],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    scale: float,
    bins: int = 7,
    sampling: int = 0,
) -> list[Float[Tensor, "_ c"]]:
    """One [n c] per image: the mean over a bins x bins RoIAlign grid of each box.

    `boxes` are in network-input pixels and clipped to it here; `scale` is 1 / stride of the map; `sampling` is the number
    of points per bin and axis, 0 = adaptive as the method defines it (per box the ceil of the bin's size on the map).
    """
    h, w = maps.shape[2:]
    means = []
    for one_map, rows in zip(maps, boxes, strict=True):
        x = axis_weights(rows[:, 0], rows[:, 2], w, scale, bins, sampling, maps)
        y = axis_weights(rows[:, 1], rows[:, 3], h, scale, bins, sampling, maps)
        weights = (y[:, :, None] * x[:, None, :]).flatten(1)  # [n, h w]
        means.append(weights @ one_map.flatten(1).T)
    return means


def axis_weights(
    low: Float[Tensor, " n"],
    high: Float[Tensor, " n"],
    cells: int,
    scale: float,
    bins: int,
    sampling: int,
    like: Tensor,
) -> Float[Tensor, "n cells"]:
    """Weight of each map cell along one axis in the mean of each box; `like` gives dtype and device.

    RoIAlign's rules: half a cell of shift, points more than one cell outside count as zero, the rest are clamped to the
    border. The arithmetic is the map's, in torchvision's order: where a bin is a whole number of cells wide, the
    adaptive count hangs on the last bit.
    """
    edge = cells / scale
    start = low.to(like).clamp(0, edge) * scale - 0.5
    end = high.to(like).clamp(0, edge) * scale - 0.5
    length = end - start
    per_bin = torch.full_like(length, sampling) if sampling else (length / bins).ceil()
    points = per_bin * bins  # points per box: equally spaced over the whole box
    most = int(points.max()) if len(points) else 0
    order = torch.arange(most, device=like.device, dtype=like.dtype)
    at = start[:, None] + (order + 0.5) * (length / points.clamp(min=1))[:, None]
    share = ((order < points[:, None]) & (at >= -1) & (at <= cells)).to(like) / points.clamp(min=1)[:, None]
    at = at.clamp(min=0)
    left = at.floor().clamp(max=cells - 1)
    right = (left + 1).clamp(max=cells - 1)
    part = torch.where(left >= cells - 1, torch.zeros_like(at), at - left)
    weights = like.new_zeros(len(start), cells)
    weights.scatter_add_(1, left.long(), share * (1 - part))
    weights.scatter_add_(1, right.long(), share * part)
    return weights
