"""What a client can ask for, in one table; and how many bytes that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from insloc_hub.models.extractor import Forward
from insloc_server.problems import Refusal
from insloc_server.regions import Regions, pool

FLOAT_BYTES = {"float": 24, "base64": 6, "safetensors": 4}
"""Most bytes that one number takes: -1.2345678901234567e-05 and a comma; 4 bytes in base64, rounded up; float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What decides how many numbers an image gives."""

    pooled: int
    channels: int
    cells: int
    """Rows times columns of the map."""
    boxes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One thing a client can ask for."""

    space: Callable[[int], str]
    """Stride -> the output's name in the id of its embedding space."""
    count: Callable[[Sizes], int]
    """Numbers for one image."""
    take: Callable[[Forward, int, int, Regions | None], Tensor]
    """Forward, position of the image in it, stride, boxes -> the image's tensor."""
    needs_map: bool


def take_pooled(forward: Forward, position: int, stride: int, regions: Regions | None) -> Tensor:
    """[d]"""
    assert forward.pooled is not None
    return forward.pooled[position]


def take_map(forward: Forward, position: int, stride: int, regions: Regions | None) -> Tensor:
    """[c h w]"""
    return forward.maps[stride][position]


def take_regions(forward: Forward, position: int, stride: int, regions: Regions | None) -> Tensor:
    """[n c]"""
    assert regions is not None
    return pool(forward.maps[stride][position], regions, stride)


OUTPUTS: dict[str, Output] = {
    "pooled": Output(space=lambda stride: "pooled", count=lambda s: s.pooled, take=take_pooled, needs_map=False),
    "map": Output(
        space=lambda stride: f"map/stride-{stride}", count=lambda s: s.channels * s.cells, take=take_map, needs_map=True
    ),
    "regions": Output(
        space=lambda stride: f"regions/stride-{stride}/mean",
        count=lambda s: s.channels * s.boxes,
        take=take_regions,
        needs_map=True,
    ),
}


def check_answer(outputs: Sequence[str], sizes: Sequence[Sizes], float_bytes: int, most: int) -> None:
    """Refusal: answer_too_large, from the shapes alone."""
    total = float_bytes * sum(OUTPUTS[name].count(one) for one in sizes for name in outputs)
    if total > most:
        detail = f"the answer may take {total:,} bytes, the limit is {most:,}; ask for fewer images or boxes, not for the map"
        raise Refusal("answer_too_large", f"{detail}, or for application/vnd.safetensors", limit=most)
