"""From rounds to JSON lines: a ratio per round, the median of them and its 95 % bootstrap interval."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from servers.orders import Answer
from servers.rounds import Round

LEAST_ROUNDS = 5  # below that there is no interval, and nothing holds
MOST_RATIO = 10.0  # counted where the other side has next to nothing: its ratio is not defined, or says nothing
LIMIT_REFUSAL_MS = 50.0
LIMIT_IDLE = 0.01  # of a core
REST = ("rest",)
LEAST_IDLE = 0.0001  # below that it is nothing
REACH_MEMORY = 1 / 0.7  # of LitServe's memory over ours
REACH = {
    "resnet50": {"offline": 0.95, "timm": 1.25, "onnx": 1.5},
    "resnet18": {"offline": 0.80, "timm": 1.05, "onnx": 1.05},
}

Row = dict[str, Any]


def interval(ratios: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Median, and the low and high end of its interval over resamples of the rounds; None: too few rounds."""
    middle = float(np.median(ratios))
    if len(ratios) < LEAST_ROUNDS:
        return middle, None, None
    draws = np.random.default_rng(0).choice(np.asarray(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return middle, float(low), float(high)


def row(case: str, unit: str, reach: float, ours: Sequence[float], other: Sequence[float], ratios: Sequence[float]) -> Row:
    """A JSON line of what was measured in pairs; `ratios` are of the rounds, bigger is better. Nothing measured: `not_run`."""
    if not ratios:
        return not_run(case, unit, reach, "not run: in no round it was measured")
    middle, low, high = interval(ratios)
    line = {
        "benchmark": "serving",
        "case": case,
        "ours": round(float(np.median(ours)), 3),
        "other": round(float(np.median(other)), 3),
        "unit": unit,
        "ratio": round(middle, 3),
        "low": None if low is None else round(low, 3),
        "high": None if high is None else round(high, 3),
        "reach": round(reach, 3),
        "holds": low is not None and low >= reach,
        "samples": len(ratios),
    }
    return (
        line if low is not None else {**line, "why": f"measured {len(ratios)} times: below {LEAST_ROUNDS} there is no interval"}
    )


def not_run(case: str, unit: str, reach: float, why: str) -> Row:
    """The line of what could not be measured: it does not hold."""
    empty = dict.fromkeys(("ours", "other", "ratio", "low", "high"))
    return {"benchmark": "serving", "case": case, "unit": unit, "reach": round(reach, 3), **empty, "holds": False, "why": why}


def compared(case: str, rounds: Sequence[Round], ours: tuple[str, str], other: tuple[str, str], reach: float) -> Row:
    """Rate over rate, round by round."""
    pairs = [(found[ours]["rate"], found[other]["rate"]) for found in rounds if ours in found and other in found]
    ratios = [clipped(a, b) for a, b in pairs]
    line = row(case, "answers/s", reach, [a for a, _ in pairs], [b for _, b in pairs], ratios)
    without = sum(b == 0 for _, b in pairs)
    if without:
        line["why"] = f"in {without} of {len(pairs)} rounds the other had no useful answer; the ratio counts as {MOST_RATIO:g}"
    shares = [found[key]["client_cpu"] for found in rounds for key in (ours, other) if "client_cpu" in found.get(key, {})]
    return {**line, "client_cpu": round(float(np.median(shares)), 3)} if shares else line


def clipped(ours: float, other: float) -> float:
    """ours / other, at most MOST_RATIO; nothing over nothing is no advantage.

    >>> clipped(3, 2), clipped(3, 0), clipped(0, 0)
    (1.5, 10.0, 0.0)
    """
    if ours == 0:
        return 0.0
    return MOST_RATIO if ours >= MOST_RATIO * other else ours / other


def limited(case: str, unit: str, values: Sequence[float], limit: float, least: float) -> Row:
    """A value with a limit of its own: the ratio is limit / value, the reach 1. `least` is what can be told apart from 0."""
    return row(case, unit, 1.0, values, [limit], [limit / max(value, least) for value in values])


def refusals(rounds: Sequence[Round]) -> list[Row]:
    """How soon a refusal comes at twice the capacity; and whether there are any below it."""
    over = [found[key]["refused"]["p99_ms"] for found in rounds if (key := ("ours", "2.0 x our capacity")) in found]
    p99s = [value for value in over if value is not None]
    light = [found[key] for found in rounds if (key := ("ours", "0.8 x our capacity")) in found]
    refused = [float(answer["statuses"].get("429", 0)) for answer in light]
    shares = [1 - count / max(1, sum(answer["statuses"].values())) for count, answer in zip(refused, light, strict=True)]
    kept = row("requests not refused at 0.8 x our capacity, worst round", "refused", 1.0, refused, [0.0], shares)
    if len(shares) >= LEAST_ROUNDS:  # a median would forgive
        kept.update(ratio=round(min(shares), 4), low=round(min(shares), 4), high=1.0, holds=min(shares) == 1)
    soon = limited("time to refusal, p99, at 2 x our capacity; a limit of 50 ms", "ms", p99s, LIMIT_REFUSAL_MS, 0.01)
    if not p99s:
        soon["why"] = "not run: nothing was refused"
    return [soon, kept]


def memory(name: str, ours: Answer, other: Answer, moments: Sequence[str] = ("warm", "after")) -> Row:
    """Of two moments, warm and after an overload, the better and the worse ratio stand in place of an interval."""
    ratios = [other[moment] / ours[moment] for moment in moments]
    megabytes = [[one[moment] / 2**20 for moment in moments] for one in (ours, other)]
    case = f"memory of all processes (PSS){', at rest' * (moments == REST)}, against LitServe, {name}"
    line = row(case, "MiB", REACH_MEMORY, megabytes[0], megabytes[1], ratios)
    del line["samples"], line["why"]  # they are moments
    holds = min(ratios) >= REACH_MEMORY
    return {**line, "low": round(min(ratios), 3), "high": round(max(ratios), 3), "holds": holds}


def compared_idle(ours: Sequence[float], other: Sequence[float]) -> Row:
    """Cores that are busy when nobody asks, second by second, against LitServe's."""
    ratios = [clipped(max(b, LEAST_IDLE), max(a, LEAST_IDLE)) for a, b in zip(ours, other, strict=True)]
    return row("idle, cores, against LitServe, plain timm, best cell", "cores", 1.0, ours, other, ratios)


def served(arch: str, rounds: Sequence[Round], finalists: Mapping[str, Mapping[int, str]], no_onnx: str | None) -> list[Row]:
    """The lines of what the rounds measured."""
    reach, timm, given = REACH[arch], finalists["timm"], finalists["given"]
    eight, over, own = "8 clients", "2.0 x the slowest", "2.0 x our capacity"
    ours: Callable[[str], tuple[str, str]] = lambda load: ("ours", load)  # noqa: E731
    onnx = "throughput at 8 clients with onnxruntime, against LitServe, plain timm, best cell"
    lines = [
        compared("efficiency: 8 clients against the offline loop", rounds, ours(eight), ("offline", "loop"), reach["offline"]),
        compared(
            "throughput at 8 clients against LitServe, plain timm, best cell",
            rounds,
            ours(eight),
            (timm[8], eight),
            reach["timm"],
        ),
        not_run(onnx, "answers/s", reach["onnx"], no_onnx)
        if no_onnx
        else compared(onnx, rounds, ("ours onnx", eight), (timm[8], eight), reach["onnx"]),
        compared("throughput at 8 clients against FastAPI, plain timm", rounds, ours(eight), ("fastapi", eight), 1.0),
    ]
    for count, load in ((1, "1 client"), (2, "2 clients"), (8, eight), (32, "32 clients")):
        name = f"throughput at {load} against LitServe with our model and engine, best cell"
        lines.append(compared(name, rounds, ours(load), (given[count], load), 0.97))
    useful = "useful answers (200 within 1 s) at"
    lines += [
        compared(f"{useful} {own}, against our throughput at 8 clients", rounds, ours(own), ours(eight), 0.9),
        compared(
            f"{useful} {over}, against LitServe, plain timm, time-out tuned", rounds, ours(over), ("timm tuned", over), 1.0
        ),
        compared(f"{useful} {over}, against LitServe, plain timm, as it comes", rounds, ours(over), (timm[8], over), 1.0),
        compared(
            f"{useful} {own}, against LitServe with our model and engine, time-out tuned",
            rounds,
            ours(own),
            ("given tuned", own),
            1.0,
        ),
        compared(
            f"{useful} {over}, deadline not told, against LitServe, plain timm, as it comes",
            rounds,
            ours(f"{over}, not told"),
            (timm[8], over),
            1.0,
        ),
    ]
    return [*lines, *refusals(rounds)]


def machine(smoke: bool) -> str:
    """What it was measured on."""
    said = f"{platform.machine()}, 2 threads, torch {version('torch')}, LitServe {version('litserve')}"
    return f"{said}; a smoke run: its figures mean nothing" if smoke else said


def print_lines(arch: str, lines: Sequence[Row], where: str) -> None:
    """The JSON lines, last of all."""
    for line in lines:
        print(json.dumps({**line, "case": f"{arch}, {line['case']}", "machine": where}), flush=True)
