"""How images become mosaics, and where their objects then are: no pixels, no network (contracts.md 10).

Boxes are XYXY in pixels of the enlarged mosaic, or of the enlarged tile alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from insloc_eval.objects import ObjectBox
from insloc_eval.protocols import Mosaic
from insloc_eval.tasks.relocate_draws import uniforms
from insloc_hub.data.annotations import Box
from insloc_hub.data.folder import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One mosaic."""

    name: str
    """Set and number, the key of its outcome: A/0003."""
    tiles: tuple[Sample, ...]
    """Row by row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One object that is read out."""

    place: int
    """Of its tile in the mosaic, row by row."""
    inside: Box
    """In the enlarged mosaic."""
    alone: Box
    """In the enlarged tile."""
    label: int


def compose(protocol: Mosaic, name: str, samples: tuple[Sample, ...]) -> list[Sheet]:
    """Mosaics of the images, each used once, in an order drawn from the sorted keys; the few left over are not used.

    >>> from insloc_eval.protocols import REGIONS_MOSAIC
    >>> compose(REGIONS_MOSAIC, "A", ())
    []
    """
    ordered = sorted(samples, key=lambda s: s.key)
    numbers = uniforms(protocol.composition_seed, f"mosaic/{name}", len(ordered))
    drawn = [ordered[i] for i in np.argsort(numbers, kind="stable")]
    size = protocol.grid**2
    return [
        Sheet(name=f"{name}/{number:04d}", tiles=tuple(drawn[number * size : (number + 1) * size]))
        for number in range(len(drawn) // size)
    ]


def regions_of(protocol: Mosaic, sheet: Sheet, boxes: Mapping[str, ObjectBox], dropped: dict[str, int]) -> list[Region]:
    """The objects of a mosaic that are read out; the others are counted in `dropped` by the rule that leaves them out."""
    regions = []
    for place, sample in enumerate(sheet.tiles):
        one = boxes[sample.key]
        x1, y1, x2, y2 = (protocol.tile * side for side in one.scaled)
        if one.whole:
            rule = "whole_image"
        elif min(x2 - x1, y2 - y1) < protocol.least_side:
            rule = "side_below_8_px"
        else:
            row, column = divmod(place, protocol.grid)
            left, top, k = column * protocol.tile, row * protocol.tile, protocol.enlarge
            assert sample.label is not None
            regions.append(
                Region(
                    place=place,
                    inside=(k * (left + x1), k * (top + y1), k * (left + x2), k * (top + y2)),
                    alone=(k * x1, k * y1, k * x2, k * y2),
                    label=sample.label,
                )
            )
            continue
        dropped[rule] = dropped.get(rule, 0) + 1
    return regions
