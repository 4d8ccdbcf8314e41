"""Command-line choices -> a checked recipe and run options. Torch-free, so that a wrong choice is refused at once."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insloc_hub.errors import BadRun
from insloc_hub.recipe import Recipe, at_batch, at_canvas
from insloc_hub.recipes import find_recipe

FLAGS = {"learning_rate": "--lr", "bn_groups": "--bn-groups"}  # where the flag is not the field's name


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What is no property of the method."""

    data: Path
    run: Path
    steps: int | None = None
    """Stop after this many optimizer steps in all; None = all epochs."""
    resume: bool = False
    device: str = "cpu"
    cache_gib: float = 4.0
    """Decoded pixels kept in memory."""
    follow: tuple[str, ...] = ()
    """Fields of the recipe that the card of `recipe.init` may set, since the user named no value: arch, canvas."""
    command: str = ""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise BadRun(f"steps {self.steps} must be positive")
        if not 0 <= self.cache_gib < math.inf:
            raise BadRun(f"cache-gib {self.cache_gib} must be a number of GiB from 0")


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
