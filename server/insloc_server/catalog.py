"""What is served: the models of /v1/models, and the engine behind a request."""

from typing import Any

from fastapi import Request

from insloc_server.engine import Engine
from insloc_server.facts import model_facts
from insloc_server.models import Models
from insloc_server.problems import Refusal


async def models(request: Request) -> dict[str, Any]:
    """The models that are served here, loaded or not."""
    there = served_models(request)
    return {"models": [described(there, name) for name in there.specs]}


async def model(name: str, request: Request) -> dict[str, Any]:
    """One model's facts; asking for them loads nothing."""
    there = served_models(request)
    if name not in there.specs:
        there.get(name)
    return described(there, name)


def described(there: Models, name: str) -> dict[str, Any]:
    """A model's facts, or where it stands."""
    ready = {engine.name: engine for engine in there.loaded()}
    if name in ready:
        return {**model_facts(ready[name]), "state": "ready"}
    return {"id": name, "spec": there.specs[name], "state": there.state(name)}


def running_engine(request: Request, name: str | None = None, *, bring: bool = True) -> Engine:
    """The engine of the model that is called so, or of the first, as by Models.get. Refusal: not_ready, model_not_found."""
    return served_models(request).get(name, bring=bring)


def served_models(request: Request) -> Models:
    """The app's models. Refusal: not_ready, where the app was not started."""
    there: Models | None = request.app.state.models
    if there is None:
        raise Refusal("not_ready", "the server is starting")
    return there
