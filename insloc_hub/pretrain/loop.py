"""Steps until the end: views made ahead, metrics as JSON lines, a checkpoint now and then, a clean stop at any time."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from insloc_hub.data.cache import Pixels
from insloc_hub.data.loader import prefetch, steps_per_epoch
from insloc_hub.errors import NotFinite
from insloc_hub.files import write_text
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.batches import make_batch, make_labelled_batch
from insloc_hub.pretrain.resume import save_state
from insloc_hub.pretrain.schedule import cosine_by_epoch
from insloc_hub.pretrain.state import LabelState, State, StepFacts
from insloc_hub.pretrain.step import train_step
from insloc_hub.pretrain.supervised import label_step
from insloc_hub.progress import track
from insloc_hub.recipe import Recipe

SAVE_EVERY_S = 300.0
METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """How a call of `train` ended."""

    step: int
    total: int
    interrupted: bool


def train(
    state: State | LabelState, pixels: Pixels, run: Path, total: int, stop: Callable[[int], bool] = lambda step: False
) -> Finish:
    """Train until `total` steps are done, `stop(step)` says so, or Ctrl-C; in each case RUN/checkpoint.pt is saved.

    What a step tells is read while the next one runs: an accelerator never waits for a number on the screen. NotFinite:
    the loss is NaN or infinite; the last checkpoint before it is kept.
    """
    device = next(state.encoder.parameters()).device
    recipe = state.recipe
    fingerprint = pixels.images.fingerprint()
    per_epoch = steps_per_epoch(len(pixels), recipe.batch)
    make, take = work_of(state)
    batches = prefetch(lambda step: make(pixels, recipe, step, device), state.step, total)
    saved = time.monotonic()
    interrupted = False
    with interrupts() as interrupt, journal(state, run, total) as note:
        while state.step < total:
            waiting = time.perf_counter()
            batch = next(batches)
            started = time.perf_counter()
            epoch = state.step // per_epoch
            rate = cosine_by_epoch(recipe.learning_rate, epoch, recipe.epochs)
            facts = take(state, batch, rate)
            note(Told(step=state.step, epoch=epoch, rate=rate, facts=facts, wait_s=started - waiting))
            if distributed.any_of(interrupt() or stop(state.step), device):
                interrupted = state.step < total
                break
            if distributed.any_of(time.monotonic() - saved > SAVE_EVERY_S, device):
                note(None)
                save_state(state, fingerprint, run)
                saved = time.monotonic()
        batches.close()
        note(None)
    save_state(state, fingerprint, run)
    return Finish(step=state.step, total=total, interrupted=interrupted)


def work_of(state: State | LabelState) -> tuple[Callable[..., Any], Callable[..., StepFacts]]:
    """How a batch is made for this objective, and the step that takes it."""
    if isinstance(state, LabelState):
        return make_labelled_batch, label_step
    return make_batch, train_step


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One step's news."""

    step: int
    epoch: int
    rate: float
    facts: StepFacts
    wait_s: float
    """Seconds that the step waited for its batch."""


@contextmanager
def journal(state: State | LabelState, run: Path, total: int) -> Iterator[Callable[[Told | None], None]]:
    """Give `note(told)`, which reads the step before it (None: reads what is left) into RUN/metrics.jsonl and the screen."""
    recipe = state.recipe
    plateau = math.log(recipe.queue + 1)  # what a network that recognises nothing pays
    if distributed.rank():
        yield lambda told: None
        return
    cut_metrics(run / METRICS, state.step)
    unread: list[Told] = []
    clock = time.perf_counter()
    with (
        (run / METRICS).open("a", encoding="utf-8") as metrics,
        track("pretrain", total * recipe.batch, "images", done=state.step * recipe.batch) as progress,
    ):

        def note(told: Told | None) -> None:
            nonlocal clock
            for late in unread:
                loss, accuracy = float(late.facts.loss), late.facts.accuracy.tolist()
                check_finite(loss, late.step, recipe)
                now = time.perf_counter()
                line = {
                    "step": late.step,
                    "epoch": late.epoch,
                    "loss": loss,
                    "accuracy": [round(value, 4) for value in accuracy],
                    "lr": late.rate,
                    "wait_s": round(late.wait_s, 4),
                    "step_s": round(now - clock - late.wait_s, 4),
                }
                clock = now
                metrics.write(json.dumps(line) + "\n")
                against = f" of {plateau:.2f}" if isinstance(state, State) else ""
                progress.advance(recipe.batch, f"loss {loss:.2f}{against}, accuracy {sum(accuracy) / len(accuracy):.0%}")
            unread[:] = [told] if told is not None else []
            if told is None:
                metrics.flush()

        yield note


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


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that the step ends and is saved; a second one acts at once."""
    seen: list[int] = []
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: nobody's signals arrive here
        pass
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
