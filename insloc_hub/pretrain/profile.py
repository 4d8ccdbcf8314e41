"""Where a step's time goes: a few dozen steps of the real loop, stage by stage, and the bottleneck by name.

On a GPU the stages are timed by events in its own stream, so that measuring does not make it wait.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from insloc_hub.files import write_json

Lap = Callable[[str], None]
"""Told the name of each stage as it ends."""
Item = TypeVar("Item")

WARM = 5  # steps that are not counted: caches, autotuning
STEPS = 30
FILE = "profile.json"
WAIT, REST = "data wait", "the rest"
STARVED = 0.1  # share of waiting from which the data are the bottleneck


def no_lap(stage: str) -> None:
    """Of a step that nobody times."""


class Profile:
    """Times `STEPS` steps; a step of the loop calls `begin`, then the laps, and asks `full` at its end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps: list[tuple[float, list[tuple[str, Any]]]] = []
        """Of each step, seconds waited for data, and (stage, mark) pairs; the first mark is the step's beginning."""
        self.made: list[float] = []
        """Seconds of making a batch, in its thread."""
        self._starts: list[float] = []

    def making(self, make: Callable[[int], Item]) -> Callable[[int], Item]:
        """`make`, timed."""

        def timed(step: int) -> Item:
            start = time.perf_counter()
            item = make(step)
            self.made.append(time.perf_counter() - start)
            return item

        return timed

    def begin(self, wait_s: float) -> Lap:
        """A step starts, having waited for its batch."""
        self._starts.append(time.perf_counter() - wait_s)
        marks = [("", self._mark())]
        self.steps.append((wait_s, marks))
        return lambda stage: marks.append((stage, self._mark()))

    def full(self) -> bool:
        """Whether all steps are done, and one more to end the last."""
        return len(self.steps) > WARM + STEPS

    def facts(self) -> dict[str, Any]:
        """Medians in milliseconds of what was timed, shares, and the bottleneck. At least two steps must have begun."""
        first = min(WARM, len(self.steps) - 2)
        steps = self.steps[first:-1]  # what follows the last step's laps was not seen to its end
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        stages: dict[str, list[float]] = {WAIT: [1000 * wait for wait, _ in steps]}
        for _, marks in steps:
            for (_, before), (stage, after) in itertools.pairwise(marks):
                stages.setdefault(stage, []).append(self._between(before, after))
        starts = self._starts[first:]
        whole = statistics.median(1000 * (b - a) for a, b in itertools.pairwise(starts))
        medians = {stage: statistics.median(times) for stage, times in stages.items()}
        medians[REST] = max(0.0, whole - sum(medians.values()))
        made = 1000 * statistics.median(self.made[first:] or self.made)
        return {
            "device": str(self.device),
            "steps": len(steps),
            "step_ms": round(whole, 3),
            "stages_ms": {stage: round(value, 3) for stage, value in medians.items()},
            "wait_share": round(medians[WAIT] / whole, 4),
            "make_batch_ms": round(made, 3),
            "bottleneck": bottleneck(medians, whole, made),
        }

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, before: Any, after: Any) -> float:
        """Milliseconds."""
        return float(before.elapsed_time(after)) if self.device.type == "cuda" else 1000 * (after - before)


def bottleneck(medians: dict[str, float], whole: float, made: float) -> str:
    """What to do something about, and what."""
    waited = medians[WAIT] / whole
    if waited > STARVED:
        return (
            f"data: {waited:.0%} of the time is spent waiting. Making a batch takes {made:.0f} ms, the step without waiting "
            f"{whole - medians[WAIT]:.0f} ms. Keep all images in memory (--cache-gib), take a smaller --canvas, or more cores"
        )
    stage = max((name for name in medians if name != WAIT), key=lambda name: medians[name])
    return (
        f"{stage}: {medians[stage] / whole:.0%} of the time; data are ready in time ({waited:.0%} waiting). Faster: "
        "--precision bf16 where the device computes in it, a smaller --canvas, a smaller --arch"
    )


def table(facts: dict[str, Any]) -> str:
    """For the screen."""
    rows = [f"{facts['steps']} steps on {facts['device']}, medians, {facts['step_ms']:.1f} ms each:"]
    for stage, value in facts["stages_ms"].items():
        rows.append(f"  {stage:18} {value:9.1f} ms {value / facts['step_ms']:5.0%}")
    rows.append(f"  {'(making a batch':18} {facts['make_batch_ms']:9.1f} ms, in a thread beside)")
    rows.append(f"bottleneck: {facts['bottleneck']}")
    return "\n".join(rows)


def write_profile(profile: Profile, run: Path) -> str:
    """RUN/profile.json; gives the table."""
    if len(profile.steps) < 2:
        return "too few steps for a profile"
    facts = profile.facts()
    write_json(run / FILE, facts)
    return table(facts)
