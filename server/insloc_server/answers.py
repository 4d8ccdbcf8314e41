"""The forms an answer takes: JSON, safetensors, npy; and which of them an Accept header chooses.

Bytes are built here by hand: floats through the framework's encoder cost 200 times the request (serving.md 6.4).
"""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from insloc_server.problems import Refusal

JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"
NPY = "application/x-npy"
TYPES = (JSON, SAFETENSORS, NPY)


def choose_type(accept: str, types: Sequence[str] = TYPES) -> str:
    """The answer's media type by an Accept header; where several are equally welcome, the first. Refusal: not_acceptable.

    >>> choose_type("*/*"), choose_type("application/json;q=0.5, application/vnd.safetensors")
    ('application/json', 'application/vnd.safetensors')
    """
    best = max(types, key=lambda name: _quality(accept, name))
    if _quality(accept, best) <= 0:
        raise Refusal("not_acceptable", f"this path answers {' or '.join(types)}")
    return best


def check_form(answer_type: str, outputs: Sequence[str], images: int, partial: bool) -> None:
    """Refusal: not_acceptable where what is asked is not the one array that npy holds."""
    if answer_type != NPY:
        return
    if len(outputs) > 1 or (images > 1 and outputs[0] != "pooled"):
        detail = "one array: one output of one image, or `pooled` of several"
        raise Refusal("not_acceptable", f"{NPY} holds {detail}; {SAFETENSORS} holds any number")
    if partial:
        raise Refusal("not_acceptable", f"{NPY} has no place for the error of an image; {SAFETENSORS} has (on_error=partial)")


def answer_bytes(head: dict[str, Any], tensors: Sequence[dict[str, Tensor]], answer_type: str, encoding: str) -> bytes:
    """The body: the head and each image's tensors by output."""
    if answer_type == SAFETENSORS:
        return safetensors_bytes(head, tensors)
    if answer_type == NPY:
        return npy_bytes([next(iter(one.values())) for one in tensors])
    return json_bytes(head, tensors, encoding)


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


def npy_bytes(tensors: Sequence[Tensor]) -> bytes:
    """A .npy file of one image's tensor, or of vectors [n d] where there are several images. float32."""
    array = tensors[0] if len(tensors) == 1 else torch.stack(list(tensors))
    buffer = io.BytesIO()
    np.save(buffer, array.to(torch.float32).numpy(), allow_pickle=False)
    return buffer.getvalue()


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
