"""The draws and the reference rows of patches/composite: pure numbers, no pixels (paper.md D.2).

A composite is a function of (seed, key, number of images, size of the image). Boxes are XYXY in pixels of the canvas.
"""

from dataclasses import dataclass

import numpy as np
import torch

from insloc_eval.protocols import Composite
from insloc_eval.tasks.candidates import CandidateGrid
from insloc_eval.tasks.relocate_draws import uniforms
from insloc_hub import paper
from insloc_hub.compositor.colour import Colour
from insloc_hub.compositor.geometry import CROP_UNIFORMS, VIEW_UNIFORMS, Layout, draw_crop, draw_layout, rescale
from insloc_hub.shapes import Float

CONSTANT_DRAWS = 2000  # boxes that choose the best constant square
BOUND_UNIFORMS, COLOUR_UNIFORMS = 2, 8  # the view's two bounds; four factors and their order


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One composite and its queries."""

    layout: Layout
    """Of one sample; its flip is not used."""
    view: tuple[int, int, int, int]
    """Another crop of the same image."""
    view_wh: tuple[int, int]
    colour: Colour
    """Of the view."""

    @property
    def box(self) -> Float[np.ndarray, " 4"]:
        """Where the instance was pasted."""
        return np.asarray(self.layout.box[0], dtype=np.float64)


def draw_placement(protocol: Composite, seed: int, key: str, size_wh: tuple[int, int], images: int) -> Placement:
    """What is done with the image `key` of this size, one of `images`."""
    parts = (VIEW_UNIFORMS, CROP_UNIFORMS, BOUND_UNIFORMS, COLOUR_UNIFORMS)
    numbers = np.array([uniforms(seed, key, sum(parts))])
    layout_u, crop_u, bounds_u, colour_u = np.split(numbers, np.cumsum(parts)[:-1].tolist(), axis=1)
    size = np.array([size_wh], dtype=np.int64)
    crop = draw_crop(size, crop_u, paper.CROP_AREA, paper.CROP_ASPECT)
    low, high = protocol.bounds
    wh = rescale(crop[:, 2:] - crop[:, :2], low + np.floor(bounds_u * (high - low + 1)).astype(np.int64))
    x1, y1, x2, y2 = crop[0].tolist()
    spread = (2 * colour_u[0, :4] - 1) * protocol.jitter
    return Placement(
        layout=draw_layout(size, images, protocol.canvas, protocol.bounds, layout_u),
        view=(x1, y1, x2, y2),
        view_wh=(int(wh[0, 0]), int(wh[0, 1])),
        colour=Colour(
            jitter=torch.ones(1, dtype=torch.bool),
            factors=torch.from_numpy(spread + np.array([1, 1, 1, 0])).float()[None],
            order=torch.from_numpy(colour_u[:, 4:].argsort(axis=1)),
            grey=torch.zeros(1, dtype=torch.bool),
            sigma=torch.zeros(1),
        ),
    )


def candidate_grid(protocol: Composite) -> CandidateGrid:
    """The 46,080 candidates of D.2."""
    sides = protocol.canvas / 4 * 2.0 ** (np.arange(protocol.scales) / protocol.per_octave)
    return CandidateGrid(size_px=protocol.canvas, centres=protocol.centres, ratios=protocol.ratios, sides=tuple(sides.tolist()))


def drawn_boxes(protocol: Composite, sizes_wh: list[tuple[int, int]], seed: int, name: str) -> Float[np.ndarray, "n 4"]:
    """True boxes of composites of images of these sizes: `name`/0, `name`/1, ..."""
    sizes = np.array(sizes_wh, dtype=np.int64)
    numbers = np.array([uniforms(seed, f"{name}/{i}", VIEW_UNIFORMS) for i in range(len(sizes))])
    return draw_layout(sizes, 1, protocol.canvas, protocol.bounds, numbers).box.astype(np.float64)


def best_square(protocol: Composite, sizes_wh: list[tuple[int, int]]) -> int:
    """Side of the centred square with the largest mean IoU, on boxes drawn for images of these sizes, in turn.

    On boxes of its own: chosen on the tested ones it would look better than it is.
    """
    sizes = [sizes_wh[i % len(sizes_wh)] for i in range(CONSTANT_DRAWS)]
    boxes = drawn_boxes(protocol, sizes, 0, "constant box")
    means = [iou_rows(boxes, centred(side, protocol.canvas)).mean() for side in range(1, protocol.canvas + 1)]
    return int(np.argmax(means)) + 1


def centred(side: float, canvas: int) -> Float[np.ndarray, " 4"]:
    """The centred square with this side."""
    low, high = (canvas - side) / 2, (canvas + side) / 2
    return np.array([low, low, high, high], dtype=np.float64)


def iou_rows(boxes: Float[np.ndarray, "n 4"], other: Float[np.ndarray, "*m 4"]) -> Float[np.ndarray, " n"]:
    """IoU of each box with `other`: one box, or one for each."""
    low, high = np.maximum(boxes[:, :2], other[..., :2]), np.minimum(boxes[:, 2:], other[..., 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=-1) for b in (boxes, other)]
    return np.asarray(shared / (areas[0] + areas[1] - shared))


def rates(protocol: Composite, ious: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Mean IoU and the share of hits at each threshold."""
    found = {f"acc{round(100 * hit)}": float((ious >= hit).mean()) for hit in protocol.hits}
    return {**found, "miou": float(ious.mean())}
