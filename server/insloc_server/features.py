"""POST /v1/features, step by step: each step of a request is another module's."""

import asyncio
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from insloc_server.catalog import check_model, running_engine
from insloc_server.decode import decoded
from insloc_server.engine import Answer, Engine, Place
from insloc_server.facts import answer_head
from insloc_server.limits import FORM_TYPE, Body, body_type, read_body, split_form
from insloc_server.metrics import Stages
from insloc_server.outputs import SAFETENSORS, choose_type, json_bytes, safetensors_bytes
from insloc_server.problems import Refusal
from insloc_server.regions import count_boxes
from insloc_server.schema import FeaturesRequest, RawQuery, from_part, from_query


async def features(request: Request, query: Annotated[RawQuery, Query()]) -> Response:
    """Features of the images of a multipart form, or of the one image that is the body.

    Whole-image vectors (`pooled`), dense maps (`map`), a vector per box (`regions`): one forward feeds all.
    """
    state = request.app.state
    stages = Stages(state.metrics)
    answer_type = choose_type(request.headers.get("accept", ""))
    kind = body_type(request.headers)
    engine = running_engine(request)
    body = Body(state.budget)
    place: Place | None = None
    try:
        await read_body(request, body, state.settings)
        stages.mark("recv")
        images, ask = await take_apart(request, kind, body, query)
        check_model(ask.model, engine)
        boxes = None if ask.boxes is None else count_boxes(ask.boxes, len(images), state.settings)
        encoding = "safetensors" if answer_type == SAFETENSORS else ask.encoding
        want = engine.want(ask.outputs, ask.transform, ask.stride, boxes is not None, encoding)
        place = engine.take_place(len(images))
        loop = asyncio.get_running_loop()
        future = await loop.run_in_executor(
            state.pool, lambda: engine.submit(decoded(images, state.settings), boxes, want, place)
        )
        stages.mark("decode")
        answer = await outcome(future, request)
        stages.add("queue", answer.queued_s)
        stages.add("infer", answer.infer_s)
        data = await loop.run_in_executor(state.pool, encoded, engine, answer, answer_type, ask.encoding)
        stages.mark("encode")
    finally:
        body.release()
        if place is not None:
            place.release()
    state.metrics.answered(len(images), sum(map(len, boxes or ())))
    return Response(data, headers={"server-timing": stages.header(), "vary": "Accept"}, media_type=answer_type)


async def take_apart(request: Request, kind: str, body: Body, query: RawQuery) -> tuple[list[bytes], FeaturesRequest]:
    """The images and what is asked of them. Refusal: bad_form, bad_json, bad_request."""
    if kind != FORM_TYPE:
        twice = [name for name in request.query_params if len(request.query_params.getlist(name)) > 1 and name != "outputs"]
        if twice:
            raise Refusal("bad_request", f"{twice[0]} is given twice")
        return [bytes(body.data)], from_query(query)
    if request.query_params:
        raise Refusal("bad_request", "with a multipart body, options go in its part `request`, not in the query")
    form = await split_form(body.data, request.headers["content-type"], request.app.state.settings.max_images)
    return form.images, from_part(form.request)


async def outcome(future: "Future[Answer]", request: Request) -> Answer:
    """The future's answer. ClientDisconnect: the client went away first; work that had not begun is dropped."""
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(disconnected(request))
    try:
        waits: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


async def disconnected(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def encoded(engine: Engine, answer: Answer, answer_type: str, encoding: str) -> bytes:
    """The body of an answer."""
    head = answer_head(engine, answer)
    if answer_type == SAFETENSORS:
        return safetensors_bytes(head, answer.tensors)
    return json_bytes(head, answer.tensors, encoding)
