"""What an orchestrator asks: does the process answer, can it serve, how much has it done.

Beside our paths stand the health and metadata names of the Open Inference Protocol (KServe v2). Its /infer is not here.
"""

import asyncio
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from insloc_hub import __version__
from insloc_server.catalog import running_engine
from insloc_server.facts import tensor_facts
from insloc_server.peers import gathered
from insloc_server.problems import Refusal


async def livez() -> dict[str, str]:
    """The process answers. Touches no model."""
    return {"status": "ok"}


async def readyz(request: Request) -> dict[str, str]:
    """A warm-up forward has passed, every compute thread answers now, and the server is not about to stop; else 503."""
    if request.app.state.draining:
        raise Refusal("not_ready", "the server is stopping")
    await startupz(request)
    return {"status": "ok"}


async def startupz(request: Request) -> dict[str, str]:
    """The model is loaded, a warm-up forward has passed, and every compute thread answers now."""
    ping = asyncio.wrap_future(running_engine(request).ping())
    done, _ = await asyncio.wait([ping], timeout=request.app.state.settings.ready_timeout_s)
    if not done:
        ping.cancel()
        raise Refusal("not_ready", "a compute thread does not answer")
    ping.result()
    return {"status": "ok"}


async def v2_server() -> dict[str, Any]:
    """Open Inference Protocol: the server."""
    return {"name": "insloc-server", "version": __version__, "extensions": []}


async def v2_live() -> dict[str, bool]:
    """Open Inference Protocol: as /livez."""
    return {"live": True}


async def v2_ready(request: Request) -> dict[str, bool]:
    """Open Inference Protocol: as /readyz."""
    await readyz(request)
    return {"ready": True}


async def v2_model(name: str, request: Request) -> dict[str, Any]:
    """Open Inference Protocol: a model's tensors."""
    engine = running_engine(request, name, bring=False)
    return tensor_facts(engine)


async def v2_model_ready(name: str, request: Request) -> dict[str, Any]:
    """Open Inference Protocol: the model can compute."""
    engine = running_engine(request, name, bring=False)
    await readyz(request)
    return {"name": engine.name, "ready": True}


async def metrics(request: Request) -> Response:
    """Counters, in Prometheus's text format: of all workers together."""
    state = request.app.state
    loaded = [] if state.models is None else [(e.name, e.extractor.sha256) for e in state.models.loaded()]
    text = state.metrics.text(loaded)
    if state.peers is not None and not state.peers.asks(request.scope):
        text = await gathered(state.peers, text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
