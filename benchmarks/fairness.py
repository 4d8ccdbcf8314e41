"""What a greedy key costs a polite one, over HTTP: 32 connections that never pause beside two requests a second.

    python benchmarks/fairness.py                    # about 4 minutes

`insloc-server` with two keys, two cores, one asyncio client; drawn 500 x 375 JPEGs, pooled vectors, resnet18. Each round asks
the polite requests alone and then beside the greedy ones, at the same moments; latency counts from the planned moment. `ratio`
is the lonely 95th percentile over that in company: .5 is twice the time. All the polite must be answered 200.
"""

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import tyro
from servers.client import Connection, usual_requests
from servers.contenders import ours
from servers.start import Keeper, started

RATE, CONNECTIONS = 2.0, 32
KEYS = {name: f"{name}-key-0123456789" for name in ("polite", "greedy")}
REACH = 0.5


@dataclass(frozen=True, slots=True)
class Round:
    """95th percentiles in milliseconds, and answers 200 a second of the greedy one."""

    lonely_ms: float
    beside_ms: float
    greedy_rate: float


def main(rounds: int = 8, seconds: float = 15.0, arch: str = "resnet18") -> int:
    """Print one JSON line; the exit code.

    Args:
        rounds: Each is alone and in company once.
        seconds: Of each of the two.
        arch: timm architecture, with random weights.
    """
    keys = ",".join(f"{name} {key}" for name, key in KEYS.items())
    keeper = Keeper()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.dict(os.environ, INSLOC_SERVER_API_KEYS=keys),
            started(ours(arch), Path(folder), keeper) as server,
        ):
            asyncio.run(polite(server.port, 3.0))
            done = []
            for number in range(rounds):
                done.append(asyncio.run(one_round(server.port, seconds)))
                print(f"round {number + 1}: load {os.getloadavg()[0]:.1f}, {done[-1]}", file=sys.stderr, flush=True)
    finally:
        keeper.close()
    print(json.dumps(line(done, arch)), flush=True)
    return 0


async def one_round(port: int, seconds: float) -> Round:
    """Alone, then in company."""
    lonely = await polite(port, seconds)
    stop = asyncio.Event()
    crowd = [asyncio.create_task(greedy(port, number, stop)) for number in range(CONNECTIONS)]
    await asyncio.sleep(1.0)
    beside = await polite(port, seconds)
    stop.set()
    answered = sum(await asyncio.gather(*crowd))
    return Round(*(float(np.percentile(times, 95)) * 1000 for times in (lonely, beside)), answered / (seconds + 1))


async def polite(port: int, seconds: float) -> list[float]:
    """Seconds that each request took. RuntimeError: one was not answered 200."""
    connection = await Connection.open(port)
    requests = usual_requests("/v1/features", headers_of("polite"))
    start, times = time.monotonic(), []
    for number in range(int(RATE * seconds)):
        planned = start + number / RATE
        await asyncio.sleep(max(0.0, planned - time.monotonic()))
        status, body = await connection.ask(requests[number % len(requests)])
        if status != 200:
            raise RuntimeError(f"the polite key was answered {status}: {body[:300]!r}")
        times.append(time.monotonic() - planned)
    connection.close()
    return times


async def greedy(port: int, number: int, stop: asyncio.Event) -> int:
    """Ask again and again, refused or not; how many were answered 200."""
    connection, answered = await Connection.open(port), 0
    requests = usual_requests("/v1/features", headers_of("greedy"))
    while not stop.is_set():
        status, _ = await connection.ask(requests[number % len(requests)])
        answered += status == 200
    connection.close()
    return answered


def headers_of(name: str) -> tuple[tuple[str, str], ...]:
    """The key's header."""
    return (("x-api-key", KEYS[name]),)


def line(rounds: list[Round], arch: str) -> dict[str, object]:
    """The JSON line."""
    ratios = np.array([one.lonely_ms / one.beside_ms for one in rounds])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {
        "benchmark": "fairness",
        "case": f"{arch}, a polite key's 95th percentile beside a greedy one of {CONNECTIONS} connections",
        "ours": round(float(np.median([one.beside_ms for one in rounds])), 1),
        "other": round(float(np.median([one.lonely_ms for one in rounds])), 1),
        "unit": "ms (lower is better; other: alone)",
        "ratio": round(float(np.median(ratios)), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
        "reach": REACH,
        "holds": len(rounds) >= 5 and bool(low >= REACH),
        "greedy_rate": round(float(np.median([one.greedy_rate for one in rounds])), 1),
        "machine": f"{platform.machine()}, 2 cores, torch {torch.__version__}",
    }


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
