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

import torch

from insloc_hub import paper
from insloc_hub.compositor.views import KEY, QUERY, make_view
from insloc_hub.data.cache import Pixels
from insloc_hub.data.loader import batch_indices, prefetch, steps_per_epoch
from insloc_hub.data.transform import InputFacts, normalise
from insloc_hub.errors import NotFinite
from insloc_hub.files import write_text
from insloc_hub.pretrain.resume import save_state
from insloc_hub.pretrain.schedule import cosine_by_epoch
from insloc_hub.pretrain.step import Batch, State, train_step
from insloc_hub.progress import track
from insloc_hub.recipes import Recipe

SAVE_EVERY_S = 300.0
METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """How a call of `train` ended."""

    step: int
    total: int
    interrupted: bool


def facts_of(recipe: Recipe) -> InputFacts:
    """The input convention that a run trains with."""
    return InputFacts(size=(recipe.canvas, recipe.canvas), mean=paper.PIXEL_MEAN, std=paper.PIXEL_STD)


def make_batch(pixels: Pixels, recipe: Recipe, step: int, device: torch.device) -> Batch:
    """The batch of optimizer step `step`: a function of recipe, data and step alone."""
    epoch, indices = batch_indices(len(pixels), recipe.batch, recipe.seed, step)
    facts = facts_of(recipe)
    query, key = (make_view(pixels.__getitem__, len(pixels), indices, epoch, recipe, which) for which in (QUERY, KEY))
    return Batch(
        query=normalise(query.images, facts).to(device),
        query_boxes=query.boxes.to(device),
        key=normalise(key.images, facts).to(device),
        key_boxes=key.boxes.to(device),
    )


def train(state: State, pixels: Pixels, run: Path, total: int, stop: Callable[[int], bool] = lambda step: False) -> Finish:
    """Train until `total` steps are done, `stop(step)` says so, or Ctrl-C; in each case RUN/checkpoint.pt is saved.

    NotFinite: the loss is NaN or infinite; the last checkpoint before it is kept.
    """
    device = state.anchors.device
    recipe = state.recipe
    fingerprint = pixels.images.fingerprint()
    per_epoch = steps_per_epoch(len(pixels), recipe.batch)
    cut_metrics(run / METRICS, state.step)
    batches = prefetch(lambda step: make_batch(pixels, recipe, step, device), state.step, total)
    saved = time.monotonic()
    plateau = math.log(recipe.queue + 1)  # what a network that recognises nothing pays
    interrupted = False
    with (
        interrupts() as interrupt,
        (run / METRICS).open("a", encoding="utf-8") as metrics,
        track("pretrain", total * recipe.batch, "images", done=state.step * recipe.batch) as progress,
    ):
        while state.step < total:
            waiting = time.perf_counter()
            batch = next(batches)
            started = time.perf_counter()
            epoch = state.step // per_epoch
            rate = cosine_by_epoch(recipe.learning_rate, epoch, recipe.epochs)
            facts = train_step(state, batch, rate)
            loss, accuracy = float(facts.loss), facts.accuracy.tolist()
            check_finite(loss, state)
            line = {
                "step": state.step,
                "epoch": epoch,
                "loss": loss,
                "accuracy": [round(value, 4) for value in accuracy],
                "lr": rate,
                "wait_s": round(started - waiting, 4),
                "step_s": round(time.perf_counter() - started, 4),
            }
            metrics.write(json.dumps(line) + "\n")
            progress.advance(recipe.batch, f"loss {loss:.2f} of {plateau:.2f}, accuracy {accuracy[0]:.0%}")
            if interrupt() or stop(state.step):
                interrupted = state.step < total
                break
            if time.monotonic() - saved > SAVE_EVERY_S:
                metrics.flush()
                save_state(state, fingerprint, run)
                saved = time.monotonic()
        batches.close()
    save_state(state, fingerprint, run)
    return Finish(step=state.step, total=total, interrupted=interrupted)


def check_finite(loss: float, state: State) -> None:
    """NotFinite: with the knobs to turn."""
    if not math.isfinite(loss):
        raise NotFinite(
            f"the loss is {loss} at step {state.step}. What was saved before is kept. Lower the learning rate "
            f"(now {state.recipe.learning_rate:g}), or raise the temperature (now {state.recipe.temperature:g})"
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
