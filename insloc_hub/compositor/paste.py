"""Apply a drawn layout to pixels: resize the background, resize the crop, copy it in. No randomness (paper.md A.1).

8-bit throughout, like the release. Bilinear with half-pixel centres and no antialias (A.1.1); a crop's border never
reads pixels from outside the crop. On a CPU image by image, in whole numbers; on an accelerator the batch at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from insloc_hub.compositor.geometry import Layout
from insloc_hub.compositor.warp import Placed, warp
from insloc_hub.data.transform import resize_plain
from insloc_hub.shapes import UInt8


def paste(
    backgrounds: Sequence[UInt8[Tensor, "3 _ _"]], foregrounds: Sequence[UInt8[Tensor, "3 _ _"]], layout: Layout
) -> UInt8[Tensor, "b 3 s s"]:
    """Composites before the flip: `layout.crop` of each foreground, at `layout.box`, on its background.

    Images of a batch may differ in size; the result is on their device. ValueError: a box leaves the canvas.
    """
    side = layout.canvas
    if len(layout.box) and (layout.box.min() < 0 or layout.box.max() > side):
        raise ValueError(f"a box leaves the {side} px canvas: {layout.box.tolist()}")
    if not foregrounds:
        return torch.empty(0, 3, side, side, dtype=torch.uint8)
    if foregrounds[0].device.type == "cpu":
        return _one_by_one(backgrounds, foregrounds, layout)
    return paste_at_once(backgrounds, foregrounds, layout)


def paste_at_once(
    backgrounds: Sequence[UInt8[Tensor, "3 _ _"]], foregrounds: Sequence[UInt8[Tensor, "3 _ _"]], layout: Layout
) -> UInt8[Tensor, "b 3 s s"]:
    """As `paste`, by products of the whole batch; within a level of it."""
    side = layout.canvas
    whole = np.array([[0, 0, image.shape[2], image.shape[1]] for image in backgrounds])
    canvas = np.tile([0, 0, side, side], (len(whole), 1))
    under = warp(backgrounds, Placed(source=whole, target=canvas, side=side, antialias=False))
    over = warp(foregrounds, Placed(source=layout.crop, target=layout.box, side=side, antialias=False))
    x1, y1, x2, y2 = torch.from_numpy(layout.box).to(over.device).T[:, :, None]
    at = torch.arange(side, device=over.device)
    rows, columns = (at >= y1) & (at < y2), (at >= x1) & (at < x2)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], over, under)


def mirror(images: UInt8[Tensor, "b 3 s s"], chosen: npt.NDArray[np.bool_]) -> None:
    """Flip the chosen [b] images left to right, in place; their boxes are `layout.final_boxes()`."""
    if images.device.type == "cpu":
        for row in np.flatnonzero(chosen).tolist():  # all at once by an index takes ten times as long
            images[row] = images[row].flip(2)
    else:
        where = torch.from_numpy(chosen).to(images.device)[:, None, None, None]
        images.copy_(torch.where(where, images.flip(3), images))


def _one_by_one(backgrounds: Sequence[Tensor], foregrounds: Sequence[Tensor], layout: Layout) -> Tensor:
    side = layout.canvas
    canvases = torch.stack([resize_plain(background, (side, side)) for background in backgrounds])
    for canvas, foreground, crop, box in zip(canvases, foregrounds, layout.crop.tolist(), layout.box.tolist(), strict=True):
        cut = foreground[:, crop[1] : crop[3], crop[0] : crop[2]]
        canvas[:, box[1] : box[3], box[0] : box[2]] = resize_plain(cut, (box[3] - box[1], box[2] - box[0]))
    return canvases
