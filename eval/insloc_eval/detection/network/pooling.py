"""RoIAlign and anchors where torchvision hard-codes others (contracts.md 11).

A file of plain torch and torchvision: `export.py` copies it into the script that loads a detector without insloc_eval.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align


class Pooler(nn.Module):
    """RoIAlign aligned and adaptive, as detectron2's (torchvision's: not aligned, two samples a bin, guessed strides).

    With several maps a box is pooled on level floor(4 + log2(sqrt(area) / 224)), held to the maps there are (paper.md C.3).
    """

    def __init__(self, strides: dict[str, int], size: int) -> None:
        super().__init__()
        self.strides = strides
        self.output_size = (size, size)
        self.finest = min(strides.values()).bit_length() - 1  # log2 of its stride: the level's number

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_sizes: Any) -> Tensor:
        """Maps by name and [n 4] XYXY network pixels of each image -> [all n, c, size, size], in the order of the boxes."""
        index = torch.cat([torch.full_like(rows[:, :1], image) for image, rows in enumerate(boxes)])
        rois = torch.cat([index, torch.cat(boxes)], dim=1)
        names = list(self.strides)
        if len(names) == 1:
            return self.pool(maps[names[0]], rois, self.strides[names[0]])
        level = self.level_of(rois[:, 1:])
        places = [torch.where(level == number)[0] for number in range(len(names))]
        parts = [self.pool(maps[name], rois[at], self.strides[name]) for name, at in zip(names, places)]  # noqa: B905
        return torch.cat(parts)[torch.argsort(torch.cat(places))]

    def level_of(self, boxes: Tensor) -> Tensor:
        """[n 4] -> [n], 0 for the finest map."""
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
        level = torch.floor(4 + torch.log2(sides / 224 + 1e-8))  # detectron2's guard against log2(0)
        return level.clamp(self.finest, self.finest + len(self.strides) - 1).long() - self.finest

    def pool(self, one: Tensor, rois: Tensor, stride: int) -> Tensor:
        """On one map; a row of `rois` is the number of its image, then XYXY in pixels."""
        one = one.to(rois.dtype)  # maps can be bfloat16, which no coordinate survives
        grid: Tensor = roi_align(one, rois, self.output_size, 1 / stride, sampling_ratio=0, aligned=True)
        return grid


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors as detectron2's: sides in float (torchvision rounds them) at the true strides (torchvision divides sizes)."""

    def __init__(self, sizes: tuple[tuple[int, ...], ...], ratios: tuple[float, ...], strides: tuple[int, ...]) -> None:
        super().__init__(sizes, (ratios,) * len(sizes))
        self.strides = strides

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> Tensor:
        """[ratios x sizes, 4] around (0, 0), ratio-major; ratio = height / width."""
        roots = torch.tensor(aspect_ratios, dtype=torch.float64).sqrt()
        sides = torch.tensor(scales, dtype=torch.float64)
        w, h = (sides / roots[:, None]).flatten() / 2, (sides * roots[:, None]).flatten() / 2
        return torch.stack([-w, -h, w, h], dim=1).to(device, dtype)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """One [anchors of all maps, 4] per image; an anchor's centre is stride x (column, row)."""
        device, dtype = feature_maps[0].device, torch.promote_types(feature_maps[0].dtype, torch.float32)
        self.set_cell_anchors(dtype, device)
        rows = []
        for one, stride, cell in zip(feature_maps, self.strides, self.cell_anchors):  # noqa: B905
            y, x = (torch.arange(side, device=device, dtype=dtype) * stride for side in one.shape[-2:])
            centres = torch.stack([*torch.meshgrid(x, y, indexing="xy")] * 2, dim=-1)
            rows.append((centres.reshape(-1, 1, 4) + cell).reshape(-1, 4))
        return [torch.cat(rows)] * len(image_list.image_sizes)
