"""A regular grid of candidate boxes over a square image, their overlaps, and the search among them.

Boxes are XYXY in pixels of the square. The grid is a product (centres x shapes), so its region means are too: `GridScorer`
scores all candidates by weights along each axis, where a weight of every map cell for every box would be a hundred times
the work. Its norms come from the map's Gram matrix, so their cost does not grow with the number of channels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insloc_hub.boxes.means import axis_weights
from insloc_hub.shapes import Float

NO_NORM = 1e-24  # a candidate or query without any content has no direction: its cosine is 0
MAP_CELLS = 3  # the table of where a search succeeds


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateGrid:
    """All candidates, clipped to the image. Order: row of the centre slowest, then column, ratio, side."""

    size_px: int
    centres: int
    """Along each axis, at equal steps, half a step from the border."""
    ratios: tuple[float, ...]
    """Height over width."""
    sides: tuple[float, ...]
    """Square roots of the areas before clipping, in pixels."""

    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """XYXY."""
        x, y, _, _ = (np.asarray(part) for part in self.axes())
        columns = np.broadcast_to(x[None], (self.centres, *x.shape))  # [row column shape 2]
        rows = np.broadcast_to(y[:, None], (self.centres, *y.shape))
        return np.stack([columns[..., 0], rows[..., 0], columns[..., 1], rows[..., 1]], axis=-1).reshape(-1, 4)

    def axes(self) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Low and high edges [centre shape 2] along x and along y, number of centres, number of shapes."""
        at = (np.arange(self.centres) + 0.5) * self.size_px / self.centres
        ratio, side = np.meshgrid(np.array(self.ratios), np.array(self.sides), indexing="ij")
        half_w, half_h = (side / np.sqrt(ratio) / 2).ravel(), (side * np.sqrt(ratio) / 2).ravel()
        x, y = (np.stack([at[:, None] - half, at[:, None] + half], axis=-1).clip(0, self.size_px) for half in (half_w, half_h))
        return x, y, self.centres, len(half_w)


class GridScorer:
    """Cosines of queries with the region mean of every candidate, for maps of one size; float64 inside."""

    def __init__(self, grid: CandidateGrid, cells_hw: tuple[int, int], bins: int, like: Tensor) -> None:
        """`like` gives the arithmetic and the device of the maps, in which region_means finds its sampling points."""
        x, y, self.centres, self.shapes = grid.axes()
        h, w = cells_hw
        self.x = self._weights(x, w, grid.size_px, bins, like)  # [shape centre w]
        self.y = self._weights(y, h, grid.size_px, bins, like)
        self.x_pairs = (self.x[..., :, None] * self.x[..., None, :]).flatten(2)  # [shape centre w w]
        self.y_pairs = (self.y[..., :, None] * self.y[..., None, :]).flatten(2)

    def scores(self, one_map: Float[Tensor, "c h w"], queries: Float[Tensor, "q c"]) -> Float[Tensor, "q n"]:
        """In the order of the grid's boxes. Equal to cosine_similarity(region_means(...), query) up to rounding."""
        h, w = one_map.shape[1:]
        flat, wanted = one_map.double().flatten(1), queries.double()
        along_x = self.x @ (wanted @ flat).reshape(-1, 1, h, w).transpose(2, 3)  # [q shape column h]
        dots = self.y @ along_x.transpose(2, 3)  # [q shape row column]
        norms = self._squared_norms(flat, h, w).clamp(min=NO_NORM).sqrt()
        lengths = wanted.norm(dim=1).clamp(min=math.sqrt(NO_NORM))
        cosines: Tensor = dots / norms / lengths[:, None, None, None]
        return cosines.permute(0, 2, 3, 1).flatten(1)

    def _squared_norms(self, flat: Float[Tensor, "c hw"], h: int, w: int) -> Float[Tensor, "shape row column"]:
        gram = (flat.T @ flat).reshape(h, w, h, w).permute(1, 3, 0, 2).reshape(w * w, h * h)
        along_x = self.x_pairs @ gram  # [shape column h h]
        squares: Tensor = self.y_pairs @ along_x.transpose(1, 2)
        return squares

    def _weights(self, edges: np.ndarray, cells: int, size_px: int, bins: int, like: Tensor) -> Tensor:
        low, high = (torch.from_numpy(edges[..., i]).to(like).flatten() for i in range(2))
        weights = axis_weights(low, high, cells, cells / size_px, bins, 0, like)
        return weights.double().reshape(self.centres, self.shapes, cells).transpose(0, 1).contiguous()


def overlaps(box: Float[np.ndarray, " 4"], boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """IoU of one box with each of `boxes`; none of them is empty.

    >>> overlaps(np.array([0.0, 0.0, 2.0, 2.0]), np.array([[1.0, 0.0, 3.0, 2.0]])).round(3).tolist()
    [0.333]
    """
    corner = np.maximum(box[:2], boxes[:, :2])
    sides = (np.minimum(box[2:], boxes[:, 2:]) - corner).clip(0)
    shared = sides.prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    union: np.ndarray = (box[2:] - box[:2]).prod() + areas - shared
    return np.asarray(shared / union)


def best(scores: Float[Tensor, " n"], tie: float) -> int:
    """Index of the best score, the lowest one of those within `tie` of it.

    >>> best(torch.tensor([0.1, 0.9, 0.9]), 1e-6)
    1
    """
    return int((scores >= scores.max() - tie).nonzero()[0])


def success_map(boxes: Float[np.ndarray, "n 4"], hits: Float[np.ndarray, " n"], size_px: int) -> list[list[float]]:
    """Share of hits by where the centre of the true box lies, row by row; empty where a cell has no box."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    column, row = (centres * MAP_CELLS / size_px).astype(int).clip(0, MAP_CELLS - 1).T
    place = row * MAP_CELLS + column
    count = np.bincount(place, minlength=MAP_CELLS**2)
    if (count == 0).any():
        return []
    found = np.bincount(place, weights=hits, minlength=MAP_CELLS**2)
    shares: list[list[float]] = (found / count).reshape(MAP_CELLS, MAP_CELLS).tolist()
    return shares
