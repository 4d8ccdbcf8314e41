"""Boxes of a request -> rows that the model's map can be pooled with; checked here, before the queue.

A bad box is refused with its place (`image`, `index`). The judge of a box is insloc_hub.boxes.check, the pooling
insloc_hub.boxes.means: the server has no rules of its own, only counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from insloc_hub.boxes.check import check_boxes
from insloc_hub.boxes.means import region_means
from insloc_hub.data.transform import Affine
from insloc_hub.errors import BadBox
from insloc_hub.shapes import Float
from insloc_server.problems import Refusal
from insloc_server.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """The boxes of one image."""

    upright: Float[Tensor, "n 4"]
    """Clipped to the image, in its pixels."""
    inputs: Float[Tensor, "n 4"]
    """In pixels of the network input."""
    clipped: tuple[bool, ...]


def count_boxes(boxes: Any, images: int, settings: Settings) -> list[list[Any]]:
    """`boxes` as one list per image. Refusal: bad_request, bad_box, too_many_boxes; before an image is decoded."""
    if not isinstance(boxes, list) or len(boxes) != images:
        got = f"{len(boxes)} lists" if isinstance(boxes, list) else "none"
        raise Refusal("bad_request", f"`boxes` needs one list per image: {images} images, {got}")
    for image, rows in enumerate(boxes):
        if not isinstance(rows, list):
            raise Refusal("bad_box", f"the boxes of image {image} must be a list of rows x1, y1, x2, y2", image=image)
        if len(rows) > settings.max_boxes:
            limit = settings.max_boxes
            raise Refusal(
                "too_many_boxes", f"image {image} has {len(rows)} boxes, the limit is {limit}", index=image, limit=limit
            )
    total = sum(len(rows) for rows in boxes)
    if total > settings.max_request_boxes:
        limit = settings.max_request_boxes
        raise Refusal("too_many_boxes", f"the request has {total} boxes, the limit is {limit}", limit=limit)
    return boxes


def place_boxes(
    boxes: Sequence[Any], image: int, size_wh: tuple[int, int], affine: Affine, input_wh: tuple[int, int]
) -> Regions:
    """The boxes of image number `image`, clipped and carried into its network input. Refusal: bad_box."""
    rows = [four_numbers(row, index, image) for index, row in enumerate(boxes)]
    try:
        upright = check_boxes(rows, size_wh)
    except BadBox as error:
        raise bad_box(error.index, image, str(error).split(": ", 1)[-1]) from None
    given = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    clipped = (given.float() != upright).any(dim=1)
    inputs = affine.boxes(upright)
    w, h = input_wh
    inside = inputs.clamp(min=0).minimum(inputs.new_tensor([w, h, w, h]))
    empty = (inside[:, 0] >= inside[:, 2]) | (inside[:, 1] >= inside[:, 3])
    if empty.any():
        text = "lies where the transform cuts the image off (`whole` cuts nothing off)"
        raise bad_box(int(empty.nonzero()[0]), image, text)
    return Regions(upright=upright, inputs=inputs, clipped=tuple(clipped.tolist()))


def four_numbers(row: Any, index: int, image: int) -> tuple[float, float, float, float]:
    """The row of a box as floats; a whole number beyond them is infinite. Refusal: bad_box."""
    if not isinstance(row, list) or len(row) != 4 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in row):
        raise bad_box(index, image, "needs four numbers x1, y1, x2, y2")
    x1, y1, x2, y2 = (_float(value) for value in row)
    return x1, y1, x2, y2


def bad_box(index: int, image: int, problem: str) -> Refusal:
    """The refusal of box `index` of image `image`."""
    return Refusal("bad_box", f"box {index} of image {image} {problem}", index=index, image=image)


def pool(one_map: Float[Tensor, "c h w"], regions: Regions, stride: int) -> Float[Tensor, "n c"]:
    """The vector of each box: the house's region mean of the map."""
    return region_means(one_map[None], [regions.inputs.to(one_map.device)], 1 / stride)[0]


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
