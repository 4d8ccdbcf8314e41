"""Counters of several processes as one: whichever is asked for /metrics asks the others, each at a door of its own.

The doors are on loopback, and only who has the secret of this start gets a process's own counters there.
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from starlette.types import Scope

log = logging.getLogger(__name__)

HEADER = "x-insloc-peer"
PATIENCE_S = 2.0
LARGEST = ("insloc_queue_oldest_seconds", "insloc_model_info", "process_max_fds", "insloc_worker_restarts_total")
SMALLEST = ("process_start_time_seconds",)


@dataclass(frozen=True, kw_only=True)
class Peers:
    """The processes of one server."""

    ports: tuple[int, ...]
    """Of each, on loopback."""
    own: int
    """Which one this is."""
    secret: str = field(default_factory=secrets.token_hex, repr=False)

    def asks(self, scope: Scope) -> bool:
        """Whether a request is one of the others asking for our counters."""
        given = dict(scope["headers"]).get(HEADER.encode(), b"")
        return scope["path"] == "/metrics" and hmac.compare_digest(given, self.secret.encode())


async def gathered(peers: Peers, own: bytes) -> bytes:
    """Our counters and the others' as one text. One that does not answer (it is starting) is left out."""
    others = [port for index, port in enumerate(peers.ports) if index != peers.own]
    texts = await asyncio.gather(*(_ask(port, peers.secret) for port in others), return_exceptions=True)
    there = [text for text in texts if isinstance(text, str)]
    return merged([own.decode(), *there])


def merged(texts: Sequence[str]) -> bytes:
    """Sums of counters, histograms and gauges; of some the largest or the smallest.

    >>> merged(["# TYPE a gauge\\na 1\\n", "# TYPE a gauge\\na 2\\n"]).decode().splitlines()[-1]
    'a 3.0'
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            families.setdefault(family.name, family)
            found = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                found[key] = _joined(sample, found[key]) if key in found else sample.value
    for name, family in families.items():
        family.samples = [Sample(key, dict(labels), value) for (key, labels), value in values[name].items()]
    registry = CollectorRegistry()
    registry.register(_Merged(families.values()))
    return generate_latest(registry)


def _joined(sample: Sample, before: float) -> float:
    if sample.name in LARGEST:
        return max(before, sample.value)
    if sample.name in SMALLEST or sample.name.endswith("_created"):
        return min(before, sample.value)
    return before + sample.value


class _Merged:
    """What a registry collects from."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)

    def collect(self) -> list[Metric]:
        return self.families


async def _ask(port: int, secret: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET /metrics HTTP/1.1\r\nHost: peer\r\n{HEADER}: {secret}\r\nConnection: close\r\n\r\n".encode())
            answer: Any = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ConnectionError("a worker gave no counters")
    return str(body.decode())
