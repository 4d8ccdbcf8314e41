"""Annotated objects of a picture -> those that are used: empty, outside and mask-less ones dropped, every drop counted.

What a picture of its own size can't hold is no target: kept silently it would be a miss in every detector's AP.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from insloc_eval.detection.data import Mask, objects_of
from insloc_hub.data.annotations import Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotated:
    """One object as its file has it."""

    box: Box
    """XYXY, edge coordinates."""
    label: int
    mask: Mask | None = None
    area: float | None = None
    """Pixels; None: the box's."""
    crowd: bool = False
    difficult: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What the objects are for, and where drops are counted."""

    half: str
    """train or test."""
    masks: bool
    counts: Counter[str]

    def drop(self, rule: str) -> None:
        """Count an object that is left out."""
        self.counts[f"{self.half}_objects_dropped_{rule}"] += 1


def usable(found: Sequence[Annotated], size_wh: tuple[int, int], use: Use) -> dict[str, Any]:
    """The object fields of a Sample. In training boxes are clipped and crowds dropped; the test keeps both as annotated."""
    kept: list[tuple[Annotated, Box]] = []
    for one in found:
        rule = _why_not(one, size_wh, use)
        if rule:
            use.drop(rule)
            continue
        inside = clipped(one.box, size_wh)
        if inside != one.box:
            use.counts[f"{use.half}_objects_partly_outside"] += 1
        kept.append((one, inside if use.half == "train" else one.box))
    return objects_of(
        [box for _, box in kept],
        masks=[one.mask for one, _ in kept if one.mask is not None] if use.masks else None,
        areas=[one.area if one.area is not None else _area(box) for one, box in kept],
        crowd=[one.crowd for one, _ in kept],
        difficult=[one.difficult for one, _ in kept],
        labels=[one.label for one, _ in kept],
    )


def clipped(box: Box, size_wh: tuple[int, int]) -> Box:
    """The part of a box inside the picture; reversed or empty where there is none.

    >>> clipped((-1.0, 2.0, 9.0, 4.0), (8, 8))
    (0.0, 2.0, 8.0, 4.0)
    """
    w, h = size_wh
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(w)), min(box[3], float(h))


def _why_not(one: Annotated, size_wh: tuple[int, int], use: Use) -> str:
    if one.box[0] >= one.box[2] or one.box[1] >= one.box[3]:
        return "empty"
    x1, y1, x2, y2 = clipped(one.box, size_wh)
    if x1 >= x2 or y1 >= y2:
        return "outside"
    if one.crowd and use.half == "train":
        return "crowd"
    if use.masks and not one.mask:
        return "without_mask"
    return ""


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
