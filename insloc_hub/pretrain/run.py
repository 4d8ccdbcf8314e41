"""A run folder from start to finish: check everything first, then train into it.

RUN/run.json (recipe, data, versions), views.png (what it trains on), metrics.jsonl, checkpoint.pt; `insloc export`
adds model/.
"""

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from insloc_hub import __version__
from insloc_hub.boxes.anchors import anchor_grid
from insloc_hub.boxes.augment import augment_boxes
from insloc_hub.compositor.picture import picture_of_views
from insloc_hub.compositor.views import make_views
from insloc_hub.data.cache import Pixels
from insloc_hub.data.folder import ImageSet
from insloc_hub.data.loader import batch_indices, steps_per_epoch
from insloc_hub.errors import BadRun
from insloc_hub.files import check_writable, write_bytes, write_json
from insloc_hub.models.extractor import find_device, load
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.batches import backgrounds
from insloc_hub.pretrain.images import list_for, read_for
from insloc_hub.pretrain.loop import Ends, Finish, train
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.resume import FILE, read_checkpoint, restore_state
from insloc_hub.pretrain.state import LabelState, State, new_label_state, new_queue, new_state
from insloc_hub.progress import say
from insloc_hub.recipe import Recipe, at_canvas, fit_to_data, from_dict
from insloc_hub.records import environment

SCHEMA = 1
RUN_FILE = "run.json"


def pretrain(recipe: Recipe | None, options: RunOptions, stop: Callable[[int], bool] = lambda step: False) -> Finish:
    """Train into `options.run`. `recipe` is None to resume: the run's own is taken, and any other must be what was asked
    when it was started. InslocError: nothing was written, but Collapsed.

    Under torchrun all processes call it; the first one writes.
    """
    deadline = time.monotonic() + options.time_limit_s
    ends = Ends(stop=stop, deadline=deadline, strict=options.strict, profile=options.profile)
    run = options.run
    content = None
    if options.resume and ((run / FILE).exists() or not options.if_any):
        content = read_checkpoint(run)
        recipe = _own_recipe(run, recipe)
    elif (run / FILE).exists():  # a run that died before its first checkpoint has nothing to lose
        raise BadRun(f"{run} holds a run already. Add --resume to continue it, or choose another --out")
    if recipe is None:
        raise BadRun("a new run needs a recipe")
    check_writable(run)
    images = list_for(options.data, recipe)
    with distributed.processes(find_device(options.device)) as device:
        asked = recipe.hash()
        if content is None:
            recipe = _as_the_card(recipe, options.follow)
        _check_processes(recipe)
        state = _new(recipe, images, device, start=content is None)  # refuses a wrong architecture before images are read
        pixels = read_for(images, recipe, options, device)
        if content is None:
            total = _begin(state, pixels, options, asked)
        else:
            restore_state(state, content, pixels.images.fingerprint())
            pixels.pool = read_run(run)["data"].get("background_pool")  # a run keeps where its backgrounds come from
            total = _total(recipe, options, len(pixels))
            _news(f"resuming {run} at step {state.step} of {total}")
        return train(state, pixels, run, total, ends)


def _own_recipe(run: Path, asked: Recipe | None) -> Recipe:
    """The recipe of the run in `run`. BadRun: it was started from another than `asked`."""
    facts = read_run(run)
    if asked is not None and facts.get("asked") != asked.hash():
        raise BadRun(
            f"{run} holds a run of another recipe than these flags ask for; its own is in {run / RUN_FILE}. "
            "Repeat the flags it was started with, say --resume alone to go on with it, or choose another --out"
        )
    return from_dict(facts["recipe"])


def _as_the_card(recipe: Recipe, follow: tuple[str, ...]) -> Recipe:
    """The recipe with the input convention of the weights it starts from, and with their architecture and size if asked.

    BadSpec: no such weights.
    """
    if recipe.init == "random":
        return recipe
    facts = load(recipe.init, "cpu")
    side = min(facts.facts.size) // 32 * 32
    changed = dataclasses.replace(recipe, pixel_mean=facts.facts.mean, pixel_std=facts.facts.std)
    if "arch" in follow:
        changed = dataclasses.replace(changed, arch=facts.arch)
    if "canvas" in follow and side >= 64:
        changed = at_canvas(changed, side)
    _news(f"from {recipe.init}: {changed.arch}, canvas {changed.canvas}, mean {changed.pixel_mean}, std {changed.pixel_std}")
    return changed


def _check_processes(recipe: Recipe) -> None:
    """BadRun: batch or groups do not split over the processes."""
    for name, value in (("batch", recipe.batch), ("bn_groups", recipe.bn_groups)):
        if value % distributed.world():
            raise BadRun(f"{name} {value} does not split over {distributed.world()} processes; make it a multiple")


def _new(recipe: Recipe, images: ImageSet, device: torch.device, *, start: bool) -> State | LabelState:
    if recipe.objective == "labels":
        return new_label_state(recipe, len(images.classes), device, start=start)
    return new_state(recipe, device, start=start)


def _begin(state: State | LabelState, pixels: Pixels, options: RunOptions, asked: str) -> int:
    """Settle the recipe with the data at hand, write what a new run starts with, and give its number of steps."""
    recipe, total = _settle(state.recipe, options, len(pixels))
    if isinstance(state, State) and recipe.queue != state.recipe.queue:
        state.queue = new_queue(recipe).to(state.anchors.device)
    state.recipe = recipe
    if distributed.rank() == 0:
        _write_run(options.run, recipe, total, pixels, options, asked)
        write_bytes(options.run / "views.png", _views_png(recipe, pixels))
    distributed.wait()
    return total


def _total(recipe: Recipe, options: RunOptions, images: int) -> int:
    """Steps of a resumed run. BadRun: it would outlive its learning rate."""
    total = int(read_run(options.run)["total_steps"]) if options.steps is None else options.steps
    most = recipe.epochs * steps_per_epoch(images, recipe.batch)
    if total > most:  # beyond its end the cosine rises again
        raise BadRun(f"this run's learning rate ends at {most} steps, so it can't go on to {total}; start a longer run anew")
    return total


def read_run(run: Path) -> dict[str, Any]:
    """RUN/run.json. BadRun: no run there, damaged, or of a newer version."""
    path = run / RUN_FILE
    if not path.is_file():
        raise BadRun(f"{run}: no run here ({RUN_FILE} is missing)")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRun(f"{path}: damaged ({error})") from None
    if facts.get("schema", 0) > SCHEMA:
        raise BadRun(f"{path}: schema {facts['schema']}; this insloc_hub reads up to {SCHEMA}. Install a newer one")
    return dict(facts)


def _settle(recipe: Recipe, options: RunOptions, images: int) -> tuple[Recipe, int]:
    """The recipe that this data set and this length of run allow, each change said; and the number of steps."""
    recipe, reasons = fit_to_data(recipe, images)
    per_epoch = steps_per_epoch(images, recipe.batch)
    if options.steps is not None:
        # The cosine must end where the run ends, or a short run never leaves the highest learning rate.
        epochs = -(-options.steps // per_epoch)
        if epochs != recipe.epochs:
            reasons += (f"epochs {recipe.epochs} -> {epochs}: {options.steps} steps of {recipe.batch} in {images} images",)
        recipe = dataclasses.replace(recipe, epochs=epochs)
    if options.strict and reasons:
        raise BadRun(
            f"--strict, and the recipe would have to change: {'; '.join(reasons)}. "
            "Say these values yourself, or leave --strict out"
        )
    for reason in reasons:
        _news(f"changed: {reason}")
    return recipe, options.steps if options.steps is not None else recipe.epochs * per_epoch


def _write_run(run: Path, recipe: Recipe, total: int, pixels: Pixels, options: RunOptions, asked: str) -> None:
    facts = {
        "schema": SCHEMA,
        "insloc_hub": __version__,
        "recipe": recipe.as_dict(),
        "recipe_hash": recipe.hash(),
        "asked": asked,  # hash of the recipe before card and data changed it
        "total_steps": total,
        "data": {
            "name": options.data.resolve().name,
            "fingerprint": pixels.images.fingerprint(),
            "n": len(pixels),
            "skipped": pixels.bad,
            "background_pool": pixels.pool,  # null: uniform over the set; else the images seen last (contracts.md 12)
        },
        "command": options.command,
        "env": environment(),
    }
    write_json(run / RUN_FILE, facts)


def _views_png(recipe: Recipe, pixels: Pixels) -> bytes:
    _, indices = batch_indices(len(pixels), recipe.batch, recipe.seed, 0)
    indices = indices[:8]
    query, key = make_views(pixels, backgrounds(pixels, recipe, 0), indices, 0, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    anchors = anchor_grid(recipe.canvas)
    augmented = augment_boxes(query.boxes, anchors, generator) if any(recipe.augment_levels) else query.boxes
    buffer = io.BytesIO()
    picture_of_views(query, key, augmented).save(buffer, "PNG")
    return buffer.getvalue()


def _news(text: str) -> None:
    """Say it once, not once per process."""
    if distributed.rank() == 0:
        say(text)
