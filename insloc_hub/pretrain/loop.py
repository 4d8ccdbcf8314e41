"""Steps until the end: views made ahead, a checkpoint now and then, a clean stop at any time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from insloc_hub.data.cache import Pixels
from insloc_hub.data.loader import prefetch, steps_per_epoch
from insloc_hub.errors import Collapsed
from insloc_hub.interrupts import interrupts
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.batches import make_batch, make_labelled_batch
from insloc_hub.pretrain.journal import journal, tell
from insloc_hub.pretrain.profile import Profile, no_lap
from insloc_hub.pretrain.resume import save_state
from insloc_hub.pretrain.schedule import cosine_by_epoch
from insloc_hub.pretrain.state import LabelState, State, StepFacts
from insloc_hub.pretrain.step import train_step
from insloc_hub.pretrain.supervised import label_step

SAVE_EVERY_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """How a call of `train` ended."""

    step: int
    total: int
    interrupted: bool
    out_of_time: bool = False
    """Whether it was the time limit that ended it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ends:
    """What ends a call of `train` before its last step, besides Ctrl-C; and whether it is timed."""

    stop: Callable[[int], bool] = lambda step: False
    deadline: float = math.inf
    """On time.monotonic()'s clock."""
    strict: bool = False
    """Whether a collapse does."""
    profile: bool = False
    """Time the first few dozen steps, say where it goes, and go on."""


def train(state: State | LabelState, pixels: Pixels, run: Path, total: int, ends: Ends) -> Finish:
    """Train until `total` steps are done, `ends` says so, or Ctrl-C; in each case RUN/checkpoint.pt is saved.

    What a step tells is read while the next one runs: an accelerator never waits for a number on the screen. NotFinite:
    the loss is NaN or infinite; the last checkpoint before it is kept. Collapsed: saved, then raised.
    """
    device = next(state.encoder.parameters()).device
    recipe = state.recipe
    fingerprint = pixels.images.fingerprint()
    per_epoch = steps_per_epoch(len(pixels), recipe.batch)
    make, take = work_of(state)
    profile = Profile(device) if ends.profile else None
    made = partial(make, pixels, recipe, device=device)
    batches = prefetch(made if profile is None else profile.making(made), state.step, total)
    saved = time.monotonic()
    interrupted = out_of_time = collapsed = False
    with interrupts() as interrupt, journal(state, run, total) as told:
        while state.step < total:
            waiting = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waiting
            epoch = state.step // per_epoch
            rate = cosine_by_epoch(recipe.learning_rate, epoch, recipe.epochs)
            facts = take(state, batch, rate, no_lap if profile is None else profile.begin(waited))
            if profile is not None and profile.full():
                told.profiled(profile, run)
                profile = None
            told.note(tell(state, facts, epoch=epoch, rate=rate, wait_s=waited))
            interrupted = distributed.any_of(interrupt() or ends.stop(state.step), device)
            out_of_time = ends.deadline < math.inf and distributed.any_of(time.monotonic() >= ends.deadline, device)
            collapsed = ends.strict and distributed.any_of(told.alarm is not None, device)
            if interrupted or out_of_time or collapsed:
                break
            if distributed.any_of(time.monotonic() - saved > SAVE_EVERY_S, device):
                told.note(None)
                save_state(state, fingerprint, run)
                saved = time.monotonic()
        batches.close()
        told.note(None)
        if profile is not None:
            told.profiled(profile, run)
    save_state(state, fingerprint, run)
    if collapsed:
        raise Collapsed(state.step, told.alarm.text if told.alarm else "the first process says why")
    early = state.step < total
    return Finish(step=state.step, total=total, interrupted=early and interrupted, out_of_time=early and out_of_time)


def work_of(state: State | LabelState) -> tuple[Callable[..., Any], Callable[..., StepFacts]]:
    """How a batch is made for this objective, and the step that takes it."""
    if isinstance(state, LabelState):
        return make_labelled_batch, label_step
    return make_batch, train_step
