"""MoCo v2's views, the control: one random-resized crop of the image itself, no paste (arXiv:2003.04297).

The rule of the crop is torchvision's RandomResizedCrop, which paper.md A.1.1 shares but for the range of aspects; the
resize is antialiased as Pillow's, which MoCo's loader uses. Colour, blur and flip are those of the composites.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from insloc_hub import paper
from insloc_hub.compositor.geometry import CROP_UNIFORMS, Floats, Ints, draw_crop
from insloc_hub.compositor.warp import Placed, warp
from insloc_hub.data.transform import resize
from insloc_hub.shapes import UInt8

CROPPED_UNIFORMS = CROP_UNIFORMS + 1  # crop, flip


@dataclass(frozen=True, kw_only=True, slots=True)
class CropLayout:
    """One cropped view of each of b images."""

    crop: Ints
    """[b 4] XYXY in the image, whole pixels."""
    flip: npt.NDArray[np.bool_]
    """[b] mirror the view."""
    side: int
    """Of the view in pixels."""

    def final_boxes(self) -> npt.NDArray[np.float32]:
        """[b 4] XYXY of the instance in its view: all of it."""
        return np.tile(np.array([0, 0, self.side, self.side], dtype=np.float32), (len(self.crop), 1))


def draw_crops(sizes_wh: Ints, side: int, numbers: Floats) -> CropLayout:
    """One view of each sample. `sizes_wh` [b 2] of the images, `numbers` [b CROPPED_UNIFORMS]."""
    return CropLayout(
        crop=draw_crop(sizes_wh, numbers[:, :CROP_UNIFORMS], paper.MOCO_CROP_AREA, paper.MOCO_CROP_ASPECT),
        flip=numbers[:, CROP_UNIFORMS] < paper.FLIP_PROBABILITY,
        side=side,
    )


def cut(images: Sequence[UInt8[Tensor, "3 _ _"]], layout: CropLayout) -> UInt8[Tensor, "b 3 s s"]:
    """The crops, resized to the side, before the flip; on the images' device, an accelerator does them at once."""
    side = layout.side
    if not images:
        return torch.empty(0, 3, side, side, dtype=torch.uint8)
    if images[0].device.type == "cpu":
        cuts = (image[:, y1:y2, x1:x2] for image, (x1, y1, x2, y2) in zip(images, layout.crop.tolist(), strict=True))
        return torch.stack([resize(part, (side, side)) for part in cuts])
    return cut_at_once(images, layout)


def cut_at_once(images: Sequence[UInt8[Tensor, "3 _ _"]], layout: CropLayout) -> UInt8[Tensor, "b 3 s s"]:
    """As `cut`, by products of the whole batch; within a level of it."""
    whole = np.tile([0, 0, layout.side, layout.side], (len(images), 1))
    return warp(images, Placed(source=layout.crop, target=whole, side=layout.side, antialias=True))
