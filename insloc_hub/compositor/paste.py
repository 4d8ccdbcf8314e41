"""Apply a drawn layout to pixels: resize the background, resize the crop, copy it in. No randomness (paper.md A.1).

8-bit throughout, like the release. Bilinear with half-pixel centres and no antialias (A.1.1); a crop's border never
reads pixels from outside the crop.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from insloc_hub.compositor.geometry import Layout
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
    device = backgrounds[0].device if backgrounds else None
    canvases = torch.empty(len(foregrounds), 3, side, side, dtype=torch.uint8, device=device)
    for canvas, background, foreground, crop, box in zip(
        canvases, backgrounds, foregrounds, layout.crop.tolist(), layout.box.tolist(), strict=True
    ):
        canvas.copy_(resize_bilinear(background, side, side))
        cut = foreground[:, crop[1] : crop[3], crop[0] : crop[2]]
        canvas[:, box[1] : box[3], box[0] : box[2]] = resize_bilinear(cut, box[3] - box[1], box[2] - box[0])
    return canvases


def resize_bilinear(image: UInt8[Tensor, "3 _ _"], h: int, w: int) -> UInt8[Tensor, "3 h w"]:
    """Plain bilinear: half-pixel centres, edge pixels repeated, no antialias, rounded to 8 bit."""
    if image.is_cuda:  # torch has no 8-bit bilinear there
        return _interpolate(image.float(), h, w).round().clamp(0, 255).to(torch.uint8)
    return _interpolate(image, h, w)


def _interpolate(image: Tensor, h: int, w: int) -> Tensor:
    return torch.nn.functional.interpolate(image[None], size=(h, w), mode="bilinear", align_corners=False)[0]
