"""A run folder from start to finish: check everything first, then train into it.

RUN/run.json (recipe, data, versions), views.png (what it trains on), metrics.jsonl, checkpoint.pt; `insloc export`
adds model/.
"""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from insloc_hub import __version__
from insloc_hub.boxes.augment import augment_boxes
from insloc_hub.compositor.picture import picture_of_views
from insloc_hub.compositor.views import KEY, QUERY, make_view
from insloc_hub.data.cache import Pixels, load_pixels
from insloc_hub.data.folder import ImageSet, list_images
from insloc_hub.data.loader import batch_indices, steps_per_epoch
from insloc_hub.errors import BadRun
from insloc_hub.files import check_writable, write_bytes, write_json
from insloc_hub.models.extractor import find_device
from insloc_hub.pretrain.loop import Finish, train
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.resume import FILE, read_checkpoint, restore_state
from insloc_hub.pretrain.step import State, new_state
from insloc_hub.progress import say, track
from insloc_hub.recipes import Recipe, fit_to_data, from_dict
from insloc_hub.records import environment

SCHEMA = 1
RUN_FILE = "run.json"
SHORT_SIDES = 2  # images are reduced to this many canvases of short side
NAMED = 5  # unreadable images named on the screen; all are in run.json


def pretrain(recipe: Recipe | None, options: RunOptions, stop: Callable[[int], bool] = lambda step: False) -> Finish:
    """Train into `options.run`. `recipe` is None to resume: the run's own is taken. InslocError: nothing was written."""
    run = options.run
    content = None
    if options.resume:
        content = read_checkpoint(run)
        recipe = from_dict(read_run(run)["recipe"])
    elif (run / FILE).exists():  # a run that died before its first checkpoint has nothing to lose
        raise BadRun(f"{run} holds a run already. Add --resume to continue it, or choose another --out")
    if recipe is None:
        raise BadRun("a new run needs a recipe")
    check_writable(run)
    images = list_images(options.data)
    device = find_device(options.device)
    state = new_state(recipe, device)  # refuses a wrong architecture before images are read
    pixels = _read_images(images, recipe, options)
    if content is None:
        recipe, total = _settle(recipe, options, len(pixels))
        state = new_state(recipe, device) if recipe != state.recipe else state
        _write_run(run, recipe, total, pixels, options)
        write_bytes(run / "views.png", _views_png(state, pixels))
    else:
        restore_state(state, content, pixels.images.fingerprint())
        total = int(read_run(run)["total_steps"]) if options.steps is None else options.steps
        most = recipe.epochs * steps_per_epoch(len(pixels), recipe.batch)
        if total > most:  # beyond its end the cosine rises again
            raise BadRun(
                f"this run's learning rate ends at {most} steps, so it can't go on to {total}; start a longer run anew"
            )
        say(f"resuming {run} at step {state.step} of {total}")
    return train(state, pixels, run, total, stop)


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


def _read_images(images: ImageSet, recipe: Recipe, options: RunOptions) -> Pixels:
    with track("read images", len(images)) as progress:
        pixels = load_pixels(images, SHORT_SIDES * recipe.canvas, int(options.cache_gib * 2**30), progress.advance)
    if pixels.bad:
        say(f"skipped {len(pixels.bad)} of {len(images)} images that can't be read:")
        for problem in list(pixels.bad.values())[:NAMED]:
            say(f"  {problem}")
        if len(pixels.bad) > NAMED:
            say(f"  ... and {len(pixels.bad) - NAMED} more, listed in {options.run / RUN_FILE}")
    if len(pixels.kept) < len(pixels):
        say(f"{len(pixels.kept)} of {len(pixels)} images fit in the cache of {options.cache_gib:g} GiB; the rest is read again")
    return pixels


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
    for reason in reasons:
        say(f"changed: {reason}")
    return recipe, options.steps if options.steps is not None else recipe.epochs * per_epoch


def _write_run(run: Path, recipe: Recipe, total: int, pixels: Pixels, options: RunOptions) -> None:
    facts = {
        "schema": SCHEMA,
        "insloc_hub": __version__,
        "recipe": recipe.as_dict(),
        "recipe_hash": recipe.hash(),
        "total_steps": total,
        "data": {
            "name": options.data.resolve().name,
            "fingerprint": pixels.images.fingerprint(),
            "n": len(pixels),
            "skipped": pixels.bad,
        },
        "command": options.command,
        "env": environment(),
    }
    write_json(run / RUN_FILE, facts)


def _views_png(state: State, pixels: Pixels) -> bytes:
    recipe = state.recipe
    _, indices = batch_indices(len(pixels), recipe.batch, recipe.seed, 0)
    indices = indices[:8]
    query, key = (make_view(pixels.__getitem__, len(pixels), indices, 0, recipe, which) for which in (QUERY, KEY))
    generator = torch.Generator().manual_seed(recipe.seed)
    augmented = augment_boxes(query.boxes, state.anchors.cpu(), generator) if recipe.box_augmentation else query.boxes
    buffer = io.BytesIO()
    picture_of_views(query, key, augmented).save(buffer, "PNG")
    return buffer.getvalue()
