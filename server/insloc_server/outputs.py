"""What a client can ask for, in one table, and the two forms an answer takes: JSON and safetensors.

Bytes are built here by hand: floats through the framework's encoder cost 200 times the request (serving.md 6.4).
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from insloc_hub.models.extractor import Forward
from insloc_server.problems import Refusal
from insloc_server.regions import Regions, pool

JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"
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
        raise Refusal("answer_too_large", f"{detail}, or for {SAFETENSORS}", limit=most)


def choose_type(accept: str) -> str:
    """The answer's media type by an Accept header. Refusal: not_acceptable.

    >>> choose_type("*/*"), choose_type("application/json;q=0.5, application/vnd.safetensors")
    ('application/json', 'application/vnd.safetensors')
    """
    best = max((JSON, SAFETENSORS), key=lambda name: _quality(accept, name))  # JSON where they are equal
    if _quality(accept, best) <= 0:
        raise Refusal("not_acceptable", f"this path answers {JSON} or {SAFETENSORS}")
    return best


def json_bytes(head: dict[str, Any], tensors: Sequence[dict[str, Tensor]], encoding: str) -> bytes:
    """The head with each image's tensors among its facts."""
    images = [
        {**facts, **{name: json_array(tensor, encoding) for name, tensor in one.items()}}
        for facts, one in zip(head["images"], tensors, strict=True)
    ]
    return json.dumps({**head, "images": images}, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def safetensors_bytes(head: dict[str, Any], tensors: Sequence[dict[str, Tensor]]) -> bytes:
    """Tensors `pooled.0`, `map.0`, `regions.0`, `pooled.1`, ... with the head as JSON in the metadata key `insloc`."""
    flat = {f"{name}.{i}": tensor.contiguous() for i, one in enumerate(tensors) for name, tensor in one.items()}
    data: bytes = save(flat, metadata={"insloc": json.dumps(head, ensure_ascii=False)})
    return data


def json_array(tensor: Tensor, encoding: str) -> Any:
    """Nested lists, or base64 with shape and type."""
    if encoding == "float":
        return tensor.tolist()
    data = tensor.to(torch.float32).contiguous().numpy().astype("<f4").tobytes()
    return {"dtype": "float32", "shape": list(tensor.shape), "data": base64.b64encode(data).decode()}


def _quality(accept: str, name: str) -> float:
    """q of the most specific range of the header that takes `name`; 0 if none does."""
    ranges = {"*/*": 0, f"{name.split('/')[0]}/*": 1, name: 2}
    found = (-1, 0.0)
    for item in (accept or "*/*").lower().split(","):
        kind, *parameters = [part.strip() for part in item.split(";")]
        if kind in ranges and ranges[kind] > found[0]:
            found = (ranges[kind], _q(parameters))
    return found[1]


def _q(parameters: Sequence[str]) -> float:
    for text in parameters:
        key, _, value = text.partition("=")
        if key.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
