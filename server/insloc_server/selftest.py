"""Does a model still compute what it should? One stored picture, against the vector stored when the model was loaded."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from torch import Tensor
from torch.nn.functional import cosine_similarity

from insloc_server.answers import json_array
from insloc_server.catalog import running_engine
from insloc_server.decode import decoded
from insloc_server.engine import Engine
from insloc_server.facts import spaces
from insloc_server.jobs import Answer, Want
from insloc_server.threads import single_threaded

PICTURE = Path(__file__).with_name("selftest.png")
THRESHOLD = 0.99999  # cosine; what an engine must reach to be let in at all


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What the model gave for the picture when it was loaded."""

    sha256: str
    vector: Tensor
    """[d]"""


async def selftest(name: str, request: Request) -> dict[str, Any]:
    """The stored picture through the model as it serves, against the stored vector and the plain model's."""
    engine = running_engine(request, name)
    reference = await reference_of(engine, request.app.state.references)
    served, want = await vector(engine, deterministic=False)
    plain, _ = await vector(engine, deterministic=True)
    cosines = [float(cosine_similarity(served.double(), other.double(), dim=0)) for other in (reference.vector, plain)]
    return {
        "model": engine.name,
        "ok": min(cosines) >= THRESHOLD,
        "cosine": cosines[0],
        "cosine_plain": cosines[1],
        "threshold": THRESHOLD,
        "space": spaces(engine, want)["pooled"],
        "vector": json_array(served, "base64"),
    }


async def reference_of(engine: Engine, references: dict[str, Reference]) -> Reference:
    """The stored vector of the engine's model; of the plain model, once."""
    there = references.get(engine.name)
    if there is None or there.sha256 != engine.extractor.sha256:
        plain, _ = await vector(engine, deterministic=True)
        there = references[engine.name] = Reference(sha256=engine.extractor.sha256, vector=plain)
    return there


async def vector(engine: Engine, *, deterministic: bool) -> tuple[Tensor, Want]:
    """[d] of the stored picture, and what was asked for it. Refusal: overloaded, not_ready, inference_failed."""
    want = engine.want(("pooled",), "eval", None, False, deterministic=deterministic)
    picture = PICTURE.read_bytes()

    def submit() -> "Future[Answer]":
        single_threaded()
        return engine.submit(decoded([picture], engine.settings), None, want)

    future = await asyncio.to_thread(submit)
    answer = await asyncio.wrap_future(future)
    return answer.tensors[0]["pooled"], want
