"""POST /v1/features, step by step: each step of a request is another module's."""

import json
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from insloc_server.answers import JSON, answer_bytes, check_form, choose_type
from insloc_server.catalog import running_engine
from insloc_server.exchange import Exchange
from insloc_server.facts import answer_head, check_spaces
from insloc_server.inline import check_values, image_bytes
from insloc_server.limits import FORM_TYPE, JSON_TYPE, body_type, split_form
from insloc_server.problems import Refusal
from insloc_server.regions import count_boxes
from insloc_server.schema import FeaturesRequest, JsonRequest, RawQuery, from_part, from_query, read_as

REPEATS = ("outputs", "expect_space")  # query parameters that may be given twice


async def features(request: Request, query: Annotated[RawQuery, Query()]) -> Response:
    """Features of the images of a multipart form, of a JSON body, or of the one image that is the body.

    Whole-image vectors (`pooled`), dense maps (`map`), a vector per box (`regions`): one forward feeds all.
    """
    answer_type = choose_type(request.headers.get("accept", ""))
    kind = body_type(request.headers)
    running_engine(request)  # or nothing is read
    async with Exchange(request) as exchange:
        await exchange.read()
        images, ask = await take_apart(exchange, kind, query)
        engine = running_engine(request, ask.model)
        boxes = None if ask.boxes is None else count_boxes(ask.boxes, len(images), exchange.state.settings)
        encoding = ask.encoding if answer_type == JSON else "safetensors"
        partial, exact = ask.on_error == "partial", ask.deterministic
        want = engine.want(
            ask.outputs, ask.transform, ask.stride, boxes is not None, encoding, partial=partial, deterministic=exact
        )
        check_form(answer_type, want.outputs, len(images), partial)
        check_spaces(ask.expect_space, engine, want)
        answer = await exchange.compute(engine, images, boxes, want)
        head = answer_head(engine, answer)
        data = await exchange.build(lambda: answer_bytes(head, answer.tensors, answer_type, encoding))
    headers = {
        "server-timing": exchange.stages.header(),
        "vary": "Accept",
        "x-model-revision": engine.extractor.sha256,
        "x-embedding-spaces": json.dumps(head["spaces"]),
    }
    return Response(data, headers=headers, media_type=answer_type)


async def take_apart(exchange: Exchange, kind: str, query: RawQuery) -> tuple[list[bytes], FeaturesRequest]:
    """The images and what is asked of them. Refusal: bad_form, bad_json, bad_request."""
    request, body, most = exchange.request, exchange.body.data, exchange.state.settings.max_images
    given = request.query_params
    if kind not in (FORM_TYPE, JSON_TYPE):
        twice = [name for name in given if len(given.getlist(name)) > 1 and name not in REPEATS]
        if twice:
            raise Refusal("bad_request", f"{twice[0]} is given twice")
        return [body], from_query(query)
    if given:
        place = "in the part `request`" if kind == FORM_TYPE else "beside `images`"
        raise Refusal("bad_request", f"options go {place}, not in the query")
    if kind == FORM_TYPE:
        form = await split_form(body, request.headers["content-type"], most)
        return form.images, from_part(form.request)
    return await exchange.aside(lambda: from_json(body, most))


def from_json(body: bytes, most: int) -> tuple[list[bytes], FeaturesRequest]:
    """Images and request of a JSON body. Refusal: bad_json, bad_request."""
    check_values(body)
    ask = read_as(JsonRequest, body)
    return image_bytes(ask.images, most), ask
