"""Command-line choices -> a checked recipe and run options. Torch-free, so that a wrong choice is refused at once."""

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insloc_hub.data.shards import shard_files
from insloc_hub.errors import BadData, BadRun
from insloc_hub.recipe import Recipe, at_batch, at_canvas
from insloc_hub.recipes import find_recipe

CACHES = ("auto", "ram", "off")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
FLAGS = {"learning_rate": "--lr", "bn_groups": "--bn-groups"}  # where the flag is not the field's name


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What is no property of the method."""

    data: Path
    run: Path
    steps: int | None = None
    """Stop after this many optimizer steps in all; None = all epochs."""
    resume: bool = False
    if_any: bool = False
    """With `resume`: start anew where there is no checkpoint yet."""
    strict: bool = False
    """Refuse to change the recipe for the data or the length; end a run that collapses."""
    profile: bool = False
    """Time the first few dozen steps of the run."""
    time_limit_s: float = math.inf
    """Save and stop after this many seconds, counted from the call."""
    device: str = "cpu"
    cache: str = "auto"
    """Decoded pixels kept in memory: auto (as far as `cache_gib` reaches), ram (all), off (none)."""
    cache_gib: float = 4.0
    """Of `cache` auto."""
    follow: tuple[str, ...] = ()
    """Fields of the recipe that the card of `recipe.init` may set, since the user named no value: arch, canvas."""
    command: str = ""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise BadRun(f"steps {self.steps} must be positive")
        if not self.time_limit_s > 0:
            raise BadRun(f"time limit {self.time_limit_s} s must be positive")
        if self.cache not in CACHES:
            raise BadRun(f"cache {self.cache!r} is unknown; there are {', '.join(CACHES)}")
        if not 0 <= self.cache_gib < math.inf:
            raise BadRun(f"cache-gib {self.cache_gib} must be a number of GiB from 0")


def seconds_of(text: str) -> float:
    """A duration in seconds. BadRun: it is none.

    >>> seconds_of("90s"), seconds_of("9m"), seconds_of("1.5h")
    (90.0, 540.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if found is None or not float(found[1]) > 0:
        raise BadRun(f"time limit {text!r} is no duration; say it as 90s, 9m or 2h")
    return float(found[1]) * UNITS[found[2]]


def resolve_recipe(name: str, *, batch: int | None, canvas: int | None, changes: dict[str, Any]) -> Recipe:
    """The recipe `name` with the user's changes; None is no change. What follows from batch and canvas follows first.

    UnknownName, BadRun.
    """
    recipe = find_recipe(name)
    if canvas is not None:
        if canvas < 64 or canvas % 32:
            raise BadRun(f"canvas {canvas} must be a multiple of 32, at least 64")
        recipe = at_canvas(recipe, canvas)
    said = {key: value for key, value in changes.items() if value is not None}
    if batch is None:
        return dataclasses.replace(recipe, **said)
    if batch < 1:
        raise BadRun(f"batch {batch} must be positive")
    return at_batch(recipe, batch, **said)


def check_resume(changes: dict[str, Any]) -> None:
    """BadRun: a resumed run keeps its recipe, so nothing of it may be said again."""
    said = sorted(FLAGS.get(key, f"--{key}") for key, value in changes.items() if value is not None)
    if said:
        raise BadRun(f"--resume takes the recipe from run.json; leave out {' '.join(said)}, or start a new run")


def check_plan(data: Path, hours: float) -> None:
    """What can be refused before anything heavy is imported. BadRun, BadData."""
    if not 0 < hours < math.inf:
        raise BadRun(f"hours {hours} must be a positive number")
    if not (os.path.exists(data) or shard_files(data) or shard_files(data / "train")):
        raise BadData(data, "no such folder or file")
