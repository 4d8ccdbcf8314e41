"""What a run tells: metrics.jsonl, the line on the screen, and an alarm when it fails.

A step's numbers are copied off an accelerator while it works on, and read once the next step is under way, so that it
never waits for a number on the screen.
"""

import json
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from insloc_hub.errors import NotFinite
from insloc_hub.files import write_text
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.profile import Profile, write_profile
from insloc_hub.pretrain.state import LabelState, State, StepFacts
from insloc_hub.pretrain.watch import EVERY, Alarm, Measures, Watch, measure
from insloc_hub.progress import Progress, say, track
from insloc_hub.recipe import Recipe
from insloc_hub.shapes import Float

METRICS = "metrics.jsonl"
SHOWN = 50  # steps that the numbers on the screen are means of


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One step's news, on its way to the CPU: read it after `wait()`."""

    step: int
    epoch: int
    rate: float
    wait_s: float
    """Seconds that the step waited for its batch."""
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, " l"]
    keys: Float[Tensor, "b l d"] | None
    """None where they are not measured at this step."""
    queue_mean: Float[Tensor, "l d"] | None
    copied: torch.cuda.Event | None

    def wait(self) -> None:
        """Until the copies are whole."""
        if self.copied is not None:
            self.copied.synchronize()


def tell(state: State | LabelState, facts: StepFacts, *, epoch: int, rate: float, wait_s: float) -> Told:
    """The news of the step that `state` has just taken; starts the copies and returns at once."""
    keys = queue_mean = None
    if isinstance(state, State) and facts.keys is not None and state.step % EVERY == 0:
        keys, queue_mean = _copy(facts.keys), _copy(state.queue.keys.mean(dim=2))
    loss, accuracy = _copy(facts.loss), _copy(facts.accuracy)
    copied = None
    if facts.loss.is_cuda:
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
    return Told(
        step=state.step,
        epoch=epoch,
        rate=rate,
        wait_s=wait_s,
        loss=loss,
        accuracy=accuracy,
        keys=keys,
        queue_mean=queue_mean,
        copied=copied,
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", non_blocking=True)  # into pinned memory, if it comes from a GPU


class Journal:
    """Writes RUN/metrics.jsonl and the screen, one step late."""

    def __init__(self, recipe: Recipe, watch: Watch | None, metrics: Any, progress: Progress) -> None:
        self.recipe = recipe
        self.watch = watch
        self.alarm: Alarm | None = None
        """The last one that was given."""
        self._metrics = metrics
        self._progress = progress
        self._unread: tuple[Told, float] | None = None
        self._clock = time.perf_counter()
        self._shown: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        self._rank = ""

    def note(self, told: Told | None) -> None:
        """Read the step before `told`, and keep `told` for the next call; None reads what is left. NotFinite."""
        if self._unread is not None:
            self._read(*self._unread)
        self._unread = None
        if told is None:
            self._metrics.flush()
            return
        now = time.perf_counter()
        self._unread = (told, now - self._clock)
        self._clock = now

    def profiled(self, profile: Profile, run: Path) -> None:
        """Write RUN/profile.json and show it."""
        say(write_profile(profile, run))

    def _read(self, late: Told, took_s: float) -> None:
        late.wait()
        loss = float(late.loss)
        check_finite(loss, late.step, self.recipe)
        measures = None if late.keys is None or late.queue_mean is None else measure(late.keys, late.queue_mean)
        line = {
            "step": late.step,
            "epoch": late.epoch,
            "loss": loss,
            "accuracy": [round(value, 4) for value in late.accuracy.tolist()],
            "lr": late.rate,
            "wait_s": round(late.wait_s, 4),
            "step_s": round(took_s - late.wait_s, 4),
            **_as_line(measures),
        }
        alarm = None if self.watch is None else self.watch.look(late.step, loss, measures)
        if alarm is not None:
            self.alarm = alarm
            line["alarm"] = alarm.name
            say(f"COLLAPSE ({alarm.name}) at step {late.step}: {alarm.text}")
        self._metrics.write(json.dumps(line) + "\n")
        self._shown.append(line)
        if measures is not None:
            most = min(self.recipe.batch - 1, self.recipe.embedding_dim)
            self._rank = f", effective rank {_each(measures.rank, '.0f')} of {most}"
        self._progress.advance(self.recipe.batch, self._screen())

    def _screen(self) -> str:
        """Means of the last steps: loss against its plateau, accuracy per level, rank, share of time without data."""
        lines = self._shown
        loss = sum(line["loss"] for line in lines) / len(lines)
        levels = zip(*(line["accuracy"] for line in lines), strict=True)
        accuracy = _each([100 * sum(level) / len(lines) for level in levels], ".0f")
        waited, worked = (sum(line[name] for line in lines) for name in ("wait_s", "step_s"))
        against = f" of {self.watch.plateau:.2f}" if self.watch is not None else ""
        share = waited / max(waited + worked, 1e-9)
        return f"loss {loss:.2f}{against}, accuracy {accuracy} %{self._rank}, waits for data {share:.0%}"


def _as_line(measures: Measures | None) -> dict[str, list[float]]:
    if measures is None:
        return {}
    return {name: [round(value, 4) for value in getattr(measures, name)] for name in ("spread", "rank", "gap")}


def _each(values: Any, form: str) -> str:
    """One number per level."""
    return "/".join(format(value, form) for value in values)


class Silence:
    """The journal of a process that is not the first: it neither writes nor reads."""

    alarm: Alarm | None = None

    def note(self, told: Told | None) -> None:
        """Nothing."""

    def profiled(self, profile: Profile, run: Path) -> None:
        """Nothing."""


@contextmanager
def journal(state: State | LabelState, run: Path, total: int) -> Iterator[Journal | Silence]:
    """Go on with RUN/metrics.jsonl after `state.step`, in the first process."""
    recipe = state.recipe
    if distributed.rank():
        yield Silence()
        return
    cut_metrics(run / METRICS, state.step)
    watch = Watch(recipe) if isinstance(state, State) else None
    with (
        (run / METRICS).open("a", encoding="utf-8") as metrics,
        track("pretrain", total * recipe.batch, "images", done=state.step * recipe.batch) as progress,
    ):
        yield Journal(recipe, watch, metrics, progress)


def check_finite(loss: float, step: int, recipe: Recipe) -> None:
    """NotFinite: with the knobs to turn."""
    if not math.isfinite(loss):
        raise NotFinite(
            f"the loss is {loss} at step {step}. What was saved before is kept. Lower the learning rate "
            f"(now {recipe.learning_rate:g}), or raise the temperature (now {recipe.temperature:g})"
        )


def cut_metrics(path: Path, step: int) -> None:
    """Drop the lines after `step`: written by a run that was killed after its last checkpoint."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line)
        except (ValueError, KeyError):  # the last line of a killed run can be half-written
            break
    write_text(path, "".join(lines))
