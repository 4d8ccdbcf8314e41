"""Requests sent by plan, whether or not the server keeps up: one event loop, a new connection a request."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from wire import head

WAIT_S = 30.0


@dataclass
class Sent:
    """What became of each request, by its id."""

    statuses: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """From the planned moment to the end of the answer."""
    retry_after: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    """Without an answer, and why."""


def send_by_plan(url: str, png: bytes, moments: Sequence[float], **fields: object) -> Sent:
    """A request to `url`, path and all, at each of `moments` (seconds from now), named r0, r1, ...; ends when all have.

    `fields` are further headers: `x_deadline_ms=1000`.
    """
    return asyncio.run(_all(url, png, moments, fields))


async def _all(url: str, png: bytes, moments: Sequence[float], fields: dict[str, object]) -> Sent:
    sent, start = Sent(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, moment in enumerate(moments):
            await asyncio.sleep(max(0.0, start + moment - time.monotonic()))
            group.create_task(_one(sent, url, png, f"r{number}", start + moment, fields))
    return sent


async def _one(sent: Sent, url: str, png: bytes, name: str, planned: float, fields: dict[str, object]) -> None:
    place = urlsplit(url)
    data = (
        head(
            "POST",
            f"{place.path}?{place.query}",
            x_request_id=name,
            content_type="image/png",
            content_length=len(png),
            **fields,
        )
        + png
    )
    try:
        async with asyncio.timeout(WAIT_S):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            writer.write(data)
            status, headers = await _answer(reader)
            writer.close()
    except (OSError, EOFError, TimeoutError) as error:
        sent.lost.append(f"{name}: {error!r}")
        return
    sent.seconds[name] = time.monotonic() - planned
    sent.statuses[name] = status
    if "retry-after" in headers:
        sent.retry_after[name] = int(headers["retry-after"])


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), headers
