"""The client: one process, one event loop, requests built beforehand, connections kept. It costs the servers little.

A closed loop asks again when it is answered: for throughput only, since it waits with a server that stalls. An open loop
asks when it planned to (Poisson), and latency counts from then, so that a stall is everybody's who came meanwhile.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Self

import numpy as np

from servers import pictures
from servers.orders import Answer, obey

PATIENCE_S = 90.0  # for an answer outside of a deadline
PICTURES = 16
LATE, BROKEN = 504_000, 0  # in place of a status: not there in time; connection lost
REFUSED = 429


class Connection:
    """One connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect. OSError."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body. OSError, EOFError: the connection is lost."""
        self.writer.write(request)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        return int(head.split(" ")[1]), await self.reader.readexactly(length)

    @property
    def usable(self) -> bool:
        """Whether the server has not closed it."""
        return not self.reader.at_eof()

    def close(self) -> None:
        """Go away at once."""
        self.writer.transport.abort()


def request_bytes(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST of an image."""
    fields = {"host": "127.0.0.1", "content-type": "image/jpeg", "content-length": str(len(body)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@cache
def usual_requests(path: str, headers: tuple[tuple[str, str], ...] = ()) -> list[bytes]:
    """The requests that are timed, in the order in which they are sent."""
    return [request_bytes(path, body, dict(headers)) for body in pictures.usual(PICTURES)]


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in [0, seconds), `rate` of them a second on average; equal for equal seeds, scaled by the rate."""
    gaps = np.random.default_rng(seed).exponential(1.0, size=int(rate * seconds * 2) + 64)
    times = np.cumsum(gaps) / rate
    return [float(at) for at in times[times < seconds]]


def share_inside(start: float, end: float, begin: float, finish: float) -> float:
    """The part of a request from `start` to `end` that lies between `begin` and `finish`.

    What is cut off by an end of the window counts by its part: with whole answers, batches of eight would make noise.

    >>> share_inside(1, 3, 0, 2), share_inside(1, 3, 4, 5)
    (0.5, 0.0)
    """
    return max(0.0, min(end, finish) - max(start, begin)) / (end - start)


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Median and 99th percentile in milliseconds; None of nothing."""
    if not seconds:
        return {"p50_ms": None, "p99_ms": None}
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


async def closed(requests: Sequence[bytes], port: int, clients: int, warm_s: float, seconds: float) -> Answer:
    """`clients` that ask again and again; what the window after the warm-up saw: answers 200 per second, latency, own CPU."""
    begin = time.monotonic() + warm_s
    finish = begin + seconds
    spans: list[tuple[float, float, int]] = []

    async def one(number: int) -> None:
        connection, step = await Connection.open(port), number
        while (sent := time.monotonic()) < finish:
            async with asyncio.timeout(PATIENCE_S):
                status, _ = await connection.ask(requests[step % len(requests)])
            spans.append((sent, time.monotonic(), status))
            step += clients
        connection.close()

    async def own_cpu() -> float:
        await asyncio.sleep(warm_s)
        before = time.process_time()
        await asyncio.sleep(seconds)
        return (time.process_time() - before) / seconds

    cpu, *_ = await asyncio.gather(own_cpu(), *(one(number) for number in range(clients)))
    good = [(start, end) for start, end, status in spans if status == 200]
    answered = sum(share_inside(start, end, begin, finish) for start, end in good)
    statuses = Counter(str(status) for _, end, status in spans if begin <= end < finish)
    inside = [end - start for start, end in good if begin <= end < finish]
    return {"rate": answered / seconds, "statuses": statuses, "client_cpu": cpu, **percentiles(inside)}


async def open_loop(
    requests: Sequence[bytes], port: int, rate: float, warm_s: float, seconds: float, seed: int, deadline_s: float
) -> Answer:
    """Requests at planned times, each given up after its deadline. Counted are those planned after the warm-up."""
    idle: list[Connection] = []
    outcomes: list[tuple[float, float, float, int]] = []
    start = time.monotonic() + 0.05

    async def one(at: float, request: bytes) -> None:
        planned = start + at
        connection: Connection | None = None
        sent = time.monotonic()
        try:
            async with asyncio.timeout_at(planned + deadline_s):  # the loop's clock is the monotonic one
                connection = kept(idle) or await Connection.open(port)
                status, _ = await connection.ask(request)
            idle.append(connection)
        except TimeoutError:
            status = LATE
        except (OSError, EOFError):
            status = BROKEN
        if status in (LATE, BROKEN) and connection is not None:
            connection.close()
        outcomes.append((at, sent - planned, time.monotonic() - planned, status))

    async def own_cpu() -> float:
        await asyncio.sleep(warm_s)
        before = time.process_time()
        await asyncio.sleep(seconds)
        return (time.process_time() - before) / seconds

    cpu = asyncio.create_task(own_cpu())
    tasks = []
    for number, at in enumerate(poisson(rate, warm_s + seconds, seed)):
        await asyncio.sleep(max(0.0, start + at - time.monotonic()))
        tasks.append(asyncio.create_task(one(at, requests[number % len(requests)])))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return {**summary([one for one in outcomes if one[0] >= warm_s], seconds), "client_cpu": await cpu}


def kept(idle: list[Connection]) -> Connection | None:
    """The connection that was used last, if there is one that the server has not closed."""
    while idle:
        connection = idle.pop()
        if connection.usable:
            return connection
        connection.close()
    return None


def summary(outcomes: Sequence[tuple[float, float, float, int]], seconds: float) -> Answer:
    """Of (planned at, sent after, done after, status): goodput is answers 200 within the deadline, per second."""
    good = [took for _, _, took, status in outcomes if status == 200]
    refused = [took for _, _, took, status in outcomes if status == REFUSED]
    names = {LATE: "late", BROKEN: "broken"}
    return {
        "rate": len(good) / seconds,
        "offered": len(outcomes) / seconds,
        "statuses": Counter(names.get(status, str(status)) for *_, status in outcomes),
        "refused": percentiles(refused),
        "sent_late_ms": percentiles([lag for _, lag, _, _ in outcomes])["p99_ms"],
        **percentiles(good),
    }


async def vectors(port: int, path: str, count: int) -> Answer:
    """The vector of each of `count` pictures of mixed size, eight asked at a time. RuntimeError: one is not answered."""
    found: list[list[float]] = [[] for _ in range(count)]

    async def some(first: int) -> None:
        connection = await Connection.open(port)
        for number in range(first, count, 8):
            status, body = await connection.ask(request_bytes(path, bodies[number], {}))
            if status != 200:
                raise RuntimeError(f"status {status} for picture {number}: {body[:200]!r}")
            answer = json.loads(body)
            found[number] = answer["pooled"] if "pooled" in answer else answer["images"][0]["pooled"]
        connection.close()

    bodies = pictures.mixed(count)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(some(first) for first in range(8)))
    return {"vectors": found}


async def last(requests: Sequence[bytes], port: int) -> Answer:
    """One request more: in a queue it is answered when all that was there before it is done."""
    connection = await Connection.open(port)
    async with asyncio.timeout(PATIENCE_S):
        status, _ = await connection.ask(requests[0])
    connection.close()
    return {"status": status}


def main() -> None:
    """Obey until nobody orders any more."""

    def do_closed(port: int, path: str, **load: Any) -> Answer:
        return asyncio.run(closed(usual_requests(path), port, **load))

    def do_open(port: int, path: str, headers: dict[str, str], **load: Any) -> Answer:
        return asyncio.run(open_loop(usual_requests(path, tuple(headers.items())), port, **load))

    def do_vectors(port: int, path: str, count: int) -> Answer:
        return asyncio.run(vectors(port, path, count))

    def do_last(port: int, path: str) -> Answer:
        return asyncio.run(last(usual_requests(path), port))

    obey({"closed": do_closed, "open": do_open, "vectors": do_vectors, "last": do_last})


if __name__ == "__main__":
    main()
