"""The HTTP routes. Each step of a request is another module's: limits, schema, decode, engine, outputs, problems."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from insloc_hub import __version__, load
from insloc_hub.models.extractor import Extractor
from insloc_server.decode import decoded
from insloc_server.engine import Answer, Engine, Place
from insloc_server.facts import answer_head, model_facts
from insloc_server.limits import FORM_TYPE, Body, Budget, body_type, read_body, split_form
from insloc_server.metrics import Metrics, Observed, Stages
from insloc_server.openapi import FEATURES, PROBLEMS
from insloc_server.outputs import SAFETENSORS, choose_type, json_bytes, safetensors_bytes
from insloc_server.problems import Refusal, install
from insloc_server.regions import count_boxes
from insloc_server.schema import FeaturesAnswer, FeaturesRequest, Health, ModelFacts, ModelList, RawQuery, from_part, from_query
from insloc_server.settings import Settings


def create_app(settings: Settings, extractor: Extractor | None = None) -> FastAPI:
    """The server as an ASGI app. The model is `extractor`, or is loaded when the app starts."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        model = extractor or load(settings.model, settings.device, settings.precision)
        engine = app.state.engine = Engine(model, settings)
        app.state.metrics.watch(model.arch, model.sha256, lambda: float(engine.in_work), engine.oldest_s)
        app.state.pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="insloc-decode")
        engine.start()
        try:
            # Passed or not: /readyz says it from here on.
            await asyncio.gather(asyncio.wrap_future(engine.warm), return_exceptions=True)
            yield
        finally:
            await asyncio.to_thread(engine.close)
            app.state.pool.shutdown()

    app = FastAPI(
        title="insloc-server",
        version=__version__,
        summary="Whole-image, dense and per-box features of a backbone.",
        lifespan=life,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.budget = Budget(settings.max_held_bytes)
    app.state.engine = None
    install(app)
    app.add_middleware(Observed, metrics=app.state.metrics)
    app.post("/v1/features", response_model=FeaturesAnswer, openapi_extra=FEATURES, responses=PROBLEMS)(features)
    app.get("/v1/models", response_model=ModelList)(models)
    app.get("/v1/models/{name:path}", response_model=ModelFacts)(model)
    app.get("/livez", response_model=Health)(livez)
    app.get("/readyz", response_model=Health)(readyz)
    app.get("/metrics", response_class=Response)(metrics)
    return app


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


async def models(request: Request) -> dict[str, Any]:
    """The models that are served here: one."""
    return {"models": [model_facts(running_engine(request))]}


async def model(name: str, request: Request) -> dict[str, Any]:
    """One model's facts."""
    engine = running_engine(request)
    check_model(name, engine)
    return model_facts(engine)


async def livez() -> dict[str, str]:
    """The process answers. Touches no model."""
    return {"status": "ok"}


async def readyz(request: Request) -> dict[str, str]:
    """A warm-up forward has passed, and the compute thread answers now; 503 otherwise."""
    ping = asyncio.wrap_future(running_engine(request).ping())
    done, _ = await asyncio.wait([ping], timeout=request.app.state.settings.ready_timeout_s)
    if not done:
        ping.cancel()
        raise Refusal("not_ready", "the compute thread does not answer")
    ping.result()
    return {"status": "ok"}


async def metrics(request: Request) -> Response:
    """Counters, in Prometheus's text format."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def running_engine(request: Request) -> Engine:
    """The app's engine. Refusal: not_ready, where the app was not started."""
    engine: Engine | None = request.app.state.engine
    if engine is None:
        raise Refusal("not_ready", "the server is starting")
    return engine


def check_model(name: str | None, engine: Engine) -> None:
    """Refusal: model_not_found, with the names there are."""
    if name is not None and name != engine.name:
        raise Refusal("model_not_found", f"this server has one model: {engine.name}; see GET /v1/models")


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
