"""The app: its life, its layers, and which function answers which path."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import Response

from insloc_hub import __version__, load
from insloc_hub.models.extractor import Extractor
from insloc_server.catalog import model, models
from insloc_server.embeddings import embeddings
from insloc_server.engine import Engine
from insloc_server.engines import make_forwarder
from insloc_server.features import features
from insloc_server.health import livez, metrics, readyz, startupz, v2_live, v2_model, v2_model_ready, v2_ready, v2_server
from insloc_server.keys import Keyed, read_keyring
from insloc_server.limits import Budget
from insloc_server.metrics import Metrics, Observed
from insloc_server.models import Models, named
from insloc_server.openapi import EMBEDDINGS, FEATURES, FEATURES_RESPONSES, PROBLEMS
from insloc_server.problems import install
from insloc_server.schema import (
    EmbeddingsAnswer,
    FeaturesAnswer,
    Health,
    ModelFacts,
    ModelList,
    ModelWaiting,
    SelfTest,
    V2Live,
    V2Model,
    V2ModelReady,
    V2Ready,
    V2Server,
)
from insloc_server.selftest import reference_of, selftest
from insloc_server.settings import Settings
from insloc_server.threads import apart, single_threaded
from insloc_server.turns import Turns


def create_app(settings: Settings, extractor: Extractor | None = None) -> FastAPI:
    """The server as an ASGI app. The model is `extractor`, or is loaded when the app starts. InslocError."""
    forwarder = None if extractor is None else apart(lambda: make_forwarder(extractor, settings.engine))
    if len(settings.models) > 1:
        named(settings.models)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        model = extractor or apart(lambda: load(settings.models[0], settings.device, settings.precision))
        computed_by = forwarder or apart(lambda: make_forwarder(model, settings.engine))
        engine = app.state.engine = Engine(model, settings, computed_by)
        app.state.models = Models(settings, engine)
        app.state.metrics.watch(lambda: float(engine.in_work), engine.oldest_s)
        engine.watch_batches(app.state.metrics.batches.observe)
        app.state.turns = Turns(settings.decode_threads, "insloc-decode", single_threaded)
        engine.start()
        try:
            # Passed or not: /readyz says it from here on.
            await asyncio.gather(asyncio.wrap_future(engine.warm), return_exceptions=True)
            await asyncio.gather(reference_of(engine, app.state.references), return_exceptions=True)
            yield
        finally:
            await asyncio.to_thread(app.state.models.close)
            await asyncio.to_thread(engine.close)
            await asyncio.to_thread(app.state.turns.close)

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
    app.state.budget = budget = Budget(settings.max_held_bytes)
    app.state.metrics.bytes.set_function(lambda: float(budget.held))
    app.state.engine = app.state.models = None
    app.state.draining = False
    app.state.references = {}
    app.state.peers = None  # the other processes of this server, where there are some
    install(app)
    app.add_middleware(Keyed, keyring=read_keyring(settings))
    app.add_middleware(Observed, metrics=app.state.metrics)
    add_routes(app)
    return app


def add_routes(app: FastAPI) -> None:
    """Which function answers which path."""
    app.post("/v1/features", response_model=FeaturesAnswer, openapi_extra=FEATURES, responses=FEATURES_RESPONSES)(features)
    app.post("/v1/embeddings", response_model=EmbeddingsAnswer, openapi_extra=EMBEDDINGS, responses=PROBLEMS)(embeddings)
    app.get("/v1/models", response_model=ModelList, responses=PROBLEMS)(models)
    app.get("/v1/models/{name:path}/selftest", response_model=SelfTest, responses=PROBLEMS)(selftest)
    app.get("/v1/models/{name:path}", response_model=ModelFacts | ModelWaiting, responses=PROBLEMS)(model)
    app.get("/livez", response_model=Health)(livez)
    app.get("/startupz", response_model=Health, responses=PROBLEMS)(startupz)
    app.get("/readyz", response_model=Health, responses=PROBLEMS)(readyz)
    app.get("/metrics", response_class=Response)(metrics)
    app.get("/v2", response_model=V2Server)(v2_server)
    app.get("/v2/health/live", response_model=V2Live)(v2_live)
    app.get("/v2/health/ready", response_model=V2Ready, responses=PROBLEMS)(v2_ready)
    app.get("/v2/models/{name:path}/ready", response_model=V2ModelReady, responses=PROBLEMS)(v2_model_ready)
    app.get("/v2/models/{name:path}", response_model=V2Model, responses=PROBLEMS)(v2_model)
