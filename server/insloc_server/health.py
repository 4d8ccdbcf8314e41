"""What an orchestrator asks: does the process answer, can it serve, how much has it done."""

import asyncio

from fastapi import Request
from fastapi.responses import Response

from insloc_server.catalog import running_engine
from insloc_server.problems import Refusal


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
