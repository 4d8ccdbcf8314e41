"""What /openapi.json says beyond the models: the request forms with examples, the problems by status, the keys.

Every example here is posted by a test.
"""

from typing import Any

from pydantic import BaseModel

from insloc_server.answers import JSON, NPY, SAFETENSORS
from insloc_server.limits import FORM_TYPE, RAW_TYPES
from insloc_server.problems import CODES, MEDIA_TYPE, Refusal, problem_body
from insloc_server.schema import TINY, EmbeddingsRequest, FeaturesRequest, JsonRequest, ProblemBody

FORM_EXAMPLES: dict[str, dict[str, Any]] = {
    "pooled vectors": {},
    "vectors of boxes": {"boxes": [[[10, 12, 60, 48], [0, 0, 32, 32]]]},
    "all from one forward": {"outputs": ["pooled", "map", "regions"], "boxes": [[[10, 12, 60, 48]]], "stride": 32},
    "aspect kept, base64": {"outputs": ["map"], "transform": "whole:96", "encoding": "base64"},
}
"""The part `request` beside one part `image` of at least 64 x 64 pixels."""

JSON_EXAMPLES: dict[str, dict[str, Any]] = {
    "an image as a data URI": {"images": [TINY]},
    "base64 alone, with boxes": {"images": [TINY.split(",")[1]], "boxes": [[[2, 2, 10, 14]]], "transform": "whole:64"},
}
"""The body of a request that is JSON as a whole."""

EMBEDDINGS_EXAMPLES: dict[str, dict[str, Any]] = {
    "one image": {"input": TINY},
    "several, as base64": {"input": [TINY, {"image": TINY}], "encoding_format": "base64"},
}
"""The body of /v1/embeddings."""

QUERY_EXAMPLES: dict[str, str] = {
    "pooled vector": "",
    "vectors of boxes": "boxes=[[10,12,60,48],[0,0,32,32]]",
    "pooled of the whole image, and a map": "outputs=pooled,map&transform=whole&stride=32",
}
"""The query beside a raw image."""

PICTURE = BYTES = {"type": "string", "format": "binary"}
FORM_SCHEMA = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "array", "items": PICTURE, "description": "JPEG, PNG, WebP or BMP; repeats, order kept"},
        "request": FeaturesRequest.model_json_schema(),
    },
}

DEADLINE = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1},
    "description": "Milliseconds until the answer is of no use; what has not been begun by then is not computed",
}


def problem_responses() -> dict[int | str, dict[str, Any]]:
    """Per status the codes that can come with it, each as an example."""
    responses: dict[int | str, dict[str, Any]] = {}
    for code, (status, title) in CODES.items():
        response = responses.setdefault(status, {"model": ProblemBody, "description": ""})
        response["description"] = ", ".join(filter(None, [response["description"], f"`{code}`"]))
        content = response.setdefault("content", {}).setdefault(MEDIA_TYPE, {"examples": {}})
        body = problem_body(Refusal(code, f"{title}: the reason and the way out."), "5c0e4a3e6d8f4b0f9a7d2b1c3e5f7a90")
        content["examples"][code] = {"value": body}
    return responses


def body_of(model: type[BaseModel], examples: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A JSON body's schema and its examples."""
    return {"schema": model.model_json_schema(), "examples": {name: {"value": value} for name, value in examples.items()}}


FEATURES: dict[str, Any] = {
    "parameters": [DEADLINE],
    "requestBody": {
        "required": True,
        "content": {
            FORM_TYPE: {
                "schema": FORM_SCHEMA,
                "encoding": {"request": {"contentType": JSON}},
                "examples": {name: {"value": {"request": value}} for name, value in FORM_EXAMPLES.items()},
            },
            JSON: body_of(JsonRequest, JSON_EXAMPLES),
            **{
                name: {"schema": PICTURE, "examples": {title: {"summary": f"?{q}"} for title, q in QUERY_EXAMPLES.items()}}
                for name in RAW_TYPES
            },
        },
    },
}

EMBEDDINGS: dict[str, Any] = {
    "parameters": [DEADLINE],
    "requestBody": {"required": True, "content": {JSON: body_of(EmbeddingsRequest, EMBEDDINGS_EXAMPLES)}},
}

ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The features",
        "content": {SAFETENSORS: {"schema": BYTES}, NPY: {"schema": BYTES}},
        "headers": {"Server-Timing": {"schema": {"type": "string"}, "description": "Milliseconds of each stage"}},
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = problem_responses()
FEATURES_RESPONSES: dict[int | str, dict[str, Any]] = {**ANSWERED, **PROBLEMS}
