"""Boxes a person sends -> boxes that have a region in their image, or an error with the index (contracts.md 2)."""

import torch
from torch import Tensor

from insloc_hub.errors import BadBox
from insloc_hub.shapes import Float


def check_boxes(boxes: object, size_wh: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """float32 boxes clipped to the image. BadBox: no four numbers, NaN, infinite, reversed, empty or wholly outside.

    `boxes` is anything with rows of x1, y1, x2, y2 in pixels of the upright image; `size_wh` is its width and height.
    Checked before any scaling: native RoI code ends the process at a NaN, and its cost grows
    with the box.

    >>> check_boxes([[-5, 2, 30, 8]], (20, 10)).tolist()
    [[0.0, 2.0, 20.0, 8.0]]
    """
    try:
        rows = torch.as_tensor(boxes, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise BadBox(_first_bad_row(boxes), "needs four numbers x1, y1, x2, y2") from None
    if rows.ndim and len(rows) == 0:
        return torch.zeros(0, 4)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise BadBox(0, f"boxes must be rows of x1, y1, x2, y2; got an array of shape {list(rows.shape)}")
    w, h = size_wh
    clipped = rows.clamp(min=0).minimum(rows.new_tensor([w, h, w, h])).float()  # as it is given back, so checked as such
    for problem, bad in (
        ("has a coordinate that is no finite number", ~rows.isfinite().all(dim=1)),
        (
            "is reversed or empty: it needs x1 < x2 and y1 < y2",
            ~((rows[:, 0] < rows[:, 2]) & (rows[:, 1] < rows[:, 3])),
        ),
        (f"is empty or lies outside the {w} x {h} image", ~((clipped[:, 0] < clipped[:, 2]) & (clipped[:, 1] < clipped[:, 3]))),
    ):
        if bad.any():
            index = int(bad.nonzero()[0])
            raise BadBox(index, f"{problem}: {[float(f'{v:.6g}') for v in rows[index].tolist()]}")
    return clipped


def _first_bad_row(boxes: object) -> int:
    if not isinstance(boxes, list | tuple):
        return 0
    for index, row in enumerate(boxes):
        good = (
            isinstance(row, list | tuple) and len(row) == 4 and all(isinstance(v, int | float) and abs(v) < 1e308 for v in row)
        )
        if not good:
            return index
    return 0
