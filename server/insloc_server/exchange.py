"""One request and what it holds meanwhile: bytes, room, time. Whatever happens, all of it is given back."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from insloc_server.decode import decoded
from insloc_server.engine import Engine
from insloc_server.jobs import Answer, Want
from insloc_server.limits import Body, read_body, time_to_answer
from insloc_server.metrics import Stages
from insloc_server.problems import Refusal
from insloc_server.room import Place

T = TypeVar("T")


class Exchange:
    """`async with Exchange(request) as exchange`: read the body, compute, build the answer. Its time begins at once."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.state = request.app.state
        self.within_s = time_to_answer(request.headers, self.state.settings)
        self.until = time.monotonic() + self.within_s
        self.stages = Stages(self.state.metrics)
        self.body = Body(self.state.budget)
        self._place: Place | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.body.release()
        if self._place is not None:
            self._place.release()

    async def read(self) -> None:
        """Fill `body`. Refusal, ClientDisconnect."""
        await read_body(self.request, self.body, self.state.settings)
        self.stages.mark("recv")

    async def aside(self, work: Callable[[], T]) -> T:
        """The outcome of `work`, done on another thread in this client's turn: milliseconds must not hold up others."""
        (outcome,) = await self._in_turns((work() for _ in range(1)), 1)
        return outcome

    async def compute(self, engine: Engine, images: Sequence[bytes], boxes: list[list[Any]] | None, want: Want) -> Answer:
        """What `want` asks of the images. Room is taken before they are decoded. Refusal, ClientDisconnect."""
        self._place = engine.take_place(len(images), self.request.scope["insloc_client"], self.until - time.monotonic())
        pixels = decoded(images, self.state.settings, partial=want.partial)
        items = await self._in_turns(engine.prepare(pixels, boxes, want, self._place), len(images))
        future = engine.queue(items, want, self._place)
        self.stages.mark("decode")
        answer = await self._outcome(future)
        self.stages.add("queue", answer.queued_s)
        self.stages.add("infer", answer.infer_s)
        self.state.metrics.answered(len(images), sum(map(len, boxes or ())))
        return answer

    async def build(self, make: Callable[[], bytes]) -> bytes:
        """The answer's body."""
        data = await self.aside(make)
        self.stages.mark("encode")
        return data

    async def _in_turns(self, steps: Iterator[T], count: int) -> list[T]:
        return await asyncio.wrap_future(self.state.turns.take(self.request.scope["insloc_client"], steps, count))

    async def _outcome(self, future: "Future[Answer]") -> Answer:
        """Work that has not begun is dropped when the client goes away first (ClientDisconnect) or its time is over."""
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(self._disconnected())
        try:
            waits: set[asyncio.Future[Any]] = {answer, gone}
            left = max(0.0, self.until - time.monotonic())
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not answer.done():
                raise ClientDisconnect
            if not answer.done():
                detail = f"the answer was not there within {self.within_s:g} s; X-Deadline-Ms asks for another time"
                raise Refusal("deadline_exceeded", detail)
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()

    async def _disconnected(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
