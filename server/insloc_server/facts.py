"""Who answered: the model's names, digest and sizes, and the head that every answer carries."""

from collections.abc import Sequence
from typing import Any

from insloc_hub.space import embedding_space
from insloc_server.engine import Engine
from insloc_server.jobs import Answer, Item, Want
from insloc_server.outputs import OUTPUTS
from insloc_server.problems import Refusal


def identity(engine: Engine) -> dict[str, Any]:
    """What names the model in every answer."""
    extractor = engine.extractor
    return {
        "id": engine.name,
        "spec": extractor.spec,
        "arch": extractor.arch,
        "sha256": extractor.sha256,
        "engine": engine.forwarder.name,
        "precision": extractor.precision,
    }


def model_facts(engine: Engine) -> dict[str, Any]:
    """The model's entry in /v1/models."""
    extractor = engine.extractor
    return {
        **identity(engine),
        "input_size": list(extractor.facts.size),
        "pooled": engine.pooled,
        "strides": {str(stride): channels for stride, channels in sorted(extractor.channels.items())},
        "default_stride": extractor.default_stride,
        "outputs": list(OUTPUTS),
    }


def tensor_facts(engine: Engine) -> dict[str, Any]:
    """The same in the words of the Open Inference Protocol; -1 where a length varies: images, boxes, rows, columns."""
    channels = engine.extractor.channels[engine.extractor.default_stride]
    shapes = {"pooled": [-1, engine.pooled], "map": [-1, channels, -1, -1], "regions": [-1, channels]}
    return {
        "name": engine.name,
        "versions": [engine.extractor.sha256],
        "platform": "pytorch_timm",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": shape} for name, shape in shapes.items()],
    }


def spaces(engine: Engine, want: Want) -> dict[str, str]:
    """The id of the embedding space of each output."""
    sha256, arithmetic = engine.extractor.sha256, engine.extractor.precision
    return {
        name: embedding_space(sha256, want.transform, OUTPUTS[name].space(want.stride), arithmetic) for name in want.outputs
    }


def check_spaces(expected: Sequence[str] | None, engine: Engine, want: Want) -> None:
    """Refusal: space_mismatch where a space that the client expects is none of the answer's; before anything is computed."""
    there = spaces(engine, want)
    other = [space for space in expected or () if space not in there.values()]
    if other:
        names = ", ".join(f"{name} {space}" for name, space in there.items())
        why = "other weights, transform, stride or precision"
        detail = f"vectors of {other[0]} can't be compared with this answer's ({names}): {why}"
        raise Refusal("space_mismatch", detail, spaces=there)


def answer_head(engine: Engine, answer: Answer) -> dict[str, Any]:
    """An answer without its tensors."""
    want = answer.want
    return {
        "model": identity(engine),
        "transform": want.transform,
        "stride": want.stride if want.needs_map else None,
        "spaces": spaces(engine, want),
        "images": [image_facts(item, error) for item, error in zip(answer.items, answer.errors, strict=True)],
    }


def image_facts(item: Item | None, error: Refusal | None) -> dict[str, Any]:
    """An image of an answer without its tensors; in the place of one that failed, the problem."""
    facts: dict[str, Any] = {}
    if item is not None:
        facts |= {"width": item.size_wh[0], "height": item.size_wh[1]}
        if item.regions is not None:
            facts |= {"boxes": item.regions.upright.tolist(), "clipped": list(item.regions.clipped)}
    if error is not None:
        facts["error"] = {"code": error.code, "detail": error.detail}
    return facts
