"""The anchor grid that augmented boxes are drawn from (paper.md A.4)."""

import torch
from torch import Tensor

from insloc_hub import paper
from insloc_hub.shapes import Float


def anchor_grid(canvas: int) -> Float[Tensor, "a 4"]:
    """XYXY anchors in pixels of a square canvas: 16 x 16 cells x 5 ratios x 4 sizes = 5120, float, not clipped.

    Row = ((cell_y * 16 + cell_x) * 5 + ratio) * 4 + size. Centres are on the cells' upper left corners, as in mmdetection
    2.x. Stride and sizes are the paper's in proportion to the canvas.

    >>> anchor_grid(256).shape
    torch.Size([5120, 4])
    """
    scale = canvas / paper.CANVAS
    stride = paper.ANCHOR_STRIDE * scale
    sizes = torch.tensor(paper.ANCHOR_SIZES, dtype=torch.float64) * scale
    ratios = torch.tensor(paper.ANCHOR_RATIOS, dtype=torch.float64)
    w = (sizes[None, :] / ratios.sqrt()[:, None]).flatten()  # ratio-major
    h = (sizes[None, :] * ratios.sqrt()[:, None]).flatten()
    base = torch.stack([-w / 2, -h / 2, w / 2, h / 2], dim=1)
    centres = torch.arange(paper.CANVAS // paper.ANCHOR_STRIDE, dtype=torch.float64) * stride
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4).float()
