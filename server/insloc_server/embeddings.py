"""POST /v1/embeddings: pooled vectors in the dialect that gateways and clients of vector stores speak (serving.md 5)."""

import base64
import json
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from insloc_server.answers import JSON, choose_type
from insloc_server.catalog import running_engine
from insloc_server.exchange import Exchange
from insloc_server.facts import spaces
from insloc_server.inline import check_values, image_bytes
from insloc_server.jobs import Answer
from insloc_server.limits import JSON_TYPE, body_type
from insloc_server.schema import EmbeddingsRequest, ImageObject, read_as


async def embeddings(request: Request) -> Response:
    """Pooled vectors of images that stand in the JSON; boxes and maps are on /v1/features.

    `usage` is zero, `dimensions` is refused, and an image is base64 or a data URI: URLs are never fetched.
    """
    choose_type(request.headers.get("accept", ""), (JSON,))
    body_type(request.headers, (JSON_TYPE,))
    running_engine(request)  # or nothing is read
    async with Exchange(request) as exchange:
        await exchange.read()
        images, ask = await exchange.aside(lambda: from_json(exchange.body.data, exchange.state.settings.max_images))
        engine = running_engine(request, ask.model)
        want = engine.want(("pooled",), "eval", None, False, ask.encoding_format)
        answer = await exchange.compute(engine, images, None, want)
        space = spaces(engine, want)["pooled"]
        data = await exchange.build(lambda: answer_json(answer, ask.encoding_format, engine.name, space))
    headers = {"server-timing": exchange.stages.header(), "x-model-revision": engine.extractor.sha256}
    return Response(data, headers=headers, media_type=JSON)


def from_json(body: bytes, most: int) -> tuple[list[bytes], EmbeddingsRequest]:
    """The images, and what is asked. Refusal: bad_json, bad_request."""
    check_values(body)
    ask = read_as(EmbeddingsRequest, body)
    given = ask.input if isinstance(ask.input, list) else [ask.input]
    return image_bytes([one.image if isinstance(one, ImageObject) else one for one in given], most), ask


def answer_json(answer: Answer, encoding: str, model: str, space: str) -> bytes:
    """The body, by hand: floats through the framework's encoder cost 200 times the request."""
    vectors = [one["pooled"] for one in answer.tensors]
    values: list[Any] = [v.tolist() for v in vectors]
    if encoding == "base64":
        values = [base64.b64encode(v.numpy().astype("<f4").tobytes()).decode() for v in vectors]
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    whole = {"object": "list", "data": data, "model": model, "usage": usage, "space": space}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
