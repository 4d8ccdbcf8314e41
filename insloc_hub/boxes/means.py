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
        x, y = axes_weights(rows[:, :2].T, rows[:, 2:].T, (w, h), scale, bins, sampling, maps)
        weights = (y[:, :h, None] * x[:, None, :w]).flatten(1)  # [n, h w]
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
    """Weight of each map cell along one axis in the mean of each box; `like` gives dtype and device."""
    return axes_weights(low[None], high[None], (cells,), scale, bins, sampling, like)[0]


def axes_weights(
    low: Float[Tensor, "a n"],
    high: Float[Tensor, "a n"],
    cells: Sequence[int],
    scale: float,
    bins: int,
    sampling: int,
    like: Tensor,
) -> Float[Tensor, "a n most"]:
    """The same of several axes at once: `cells` of each, and behind them zeros up to the most.

    RoIAlign's rules: half a cell of shift, points beyond the border's cells are clamped to it (none is more than half a
    cell outside, since boxes are clipped). The arithmetic is the map's, in torchvision's order: where a bin is a whole
    number of cells wide, the adaptive count hangs on the last bit.
    """
    counts = torch.tensor(cells, dtype=like.dtype, device=like.device)[:, None]
    edge = counts / scale
    start = low.to(like).clamp(min=0).minimum(edge) * scale - 0.5
    length = high.to(like).clamp(min=0).minimum(edge) * scale - 0.5 - start
    per_bin = torch.full_like(length, sampling) if sampling else (length / bins).ceil()
    points = per_bin * bins  # points per box: equally spaced over the whole box
    most = int(points.max()) if points.numel() else 0
    order = torch.arange(most, device=like.device, dtype=like.dtype)
    divisor = points.clamp(min=1)
    at = start[..., None] + (order + 0.5) * (length / divisor)[..., None]
    at = at.clamp(min=0).minimum(counts[..., None] - 1)
    share = (order < points[..., None]).to(like) / divisor[..., None]
    left = at.floor()
    to_right = (at - left) * share
    index = left.long()
    # One cell more, which only ever gets zeros: the right neighbour of a point on the last cell.
    weights = like.new_zeros(*start.shape, max(cells) + 1)
    weights.scatter_add_(-1, index, share - to_right)
    weights[..., 1:].scatter_add_(-1, index, to_right)
    return weights[..., :-1]
