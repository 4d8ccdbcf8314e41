"""What is served: the models of /v1/models, and the engine behind a request."""

from typing import Any

from fastapi import Request

from insloc_server.engine import Engine
from insloc_server.facts import model_facts
from insloc_server.problems import Refusal


async def models(request: Request) -> dict[str, Any]:
    """The models that are served here: one."""
    return {"models": [model_facts(running_engine(request))]}


async def model(name: str, request: Request) -> dict[str, Any]:
    """One model's facts."""
    engine = running_engine(request)
    check_model(name, engine)
    return model_facts(engine)


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
