"""The main job, once through every room: draw a world, pretrain, export, evaluate, serve, report.

A second call with the same settings goes on where the first one was stopped; each part knows what it has finished.
"""

import json
import shutil
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from insloc_hub.data.decode import read
from insloc_hub.data.folder import list_classes
from insloc_hub.demo import world
from insloc_hub.demo.pictures import GAP, heat_row, loss_curve, png_uri, similarity
from insloc_hub.demo.report import Story, page
from insloc_hub.errors import BadRun
from insloc_hub.files import check_writable, write_json, write_text
from insloc_hub.models.extractor import Extractor, load
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.resume import FILE
from insloc_hub.pretrain.run import pretrain
from insloc_hub.progress import say, track
from insloc_hub.recipes import Recipe, at_canvas, insloc_c4_small
from insloc_hub.records import environment
from insloc_hub.release.export import check_export, export_run, read_metrics

VERSION = 1  # of the demo's settings: raise it when an older folder can't be gone on with
STAMP = "demo.json"
ARCH = "resnet10t"  # the smallest ResNet of timm: what two CPU cores can train in a minute
CANVAS = 96
FULL = {"train_per_class": 100, "val_per_class": 40, "steps": 320}
FAST = {"train_per_class": 12, "val_per_class": 6, "steps": 12}
HEAT_IMAGES = 3
"""Rows of the similarity sheet."""
EVERY_CLASSES = 4
"""They show every fourth class."""


def tell(out: Path, *, seed: int, fast: bool) -> Path:
    """Do it all in `out` and return the report's path. InslocError: the folder holds something else, or can't be written.

    `fast` does a tenth of the work. KeyboardInterrupt: stopped by the user; the same call goes on.
    """
    started = time.monotonic()
    settings = FAST if fast else FULL
    open_folder(out, {"version": VERSION, "seed": seed, **settings})
    say(f"1/6  a world of drawn shapes -> {out / 'world'}")
    total = (settings["train_per_class"] + settings["val_per_class"]) * len(world.CLASSES)
    with track("draw", total) as progress:
        world.write(
            out / "world",
            seed=seed,
            train_per_class=settings["train_per_class"],
            val_per_class=settings["val_per_class"],
            progress=lambda done, _: progress.advance(done - progress.done),
        )
    say(f"2/6  pretrain {ARCH} on it without labels -> {out / 'run'}")
    recipe, pretrain_s = _pretrain(out, seed, settings["steps"])
    say(f"3/6  export for plain timm -> {out / 'run' / 'model'}")
    model = export_run(out / "run")
    tensors = check_export(model)
    say(f"4/6  evaluate beside a random initialisation -> {out / 'results'}")
    results, differences = _evaluate(out, model, seed)
    say("5/6  serve")
    request, answer, served_error = _serve(out, model)
    say("6/6  report")
    story = Story(
        arch=ARCH,
        steps=settings["steps"],
        images_seen=settings["steps"] * recipe.batch,
        pretrain_s=pretrain_s,
        total_s=time.monotonic() - started,
        machine=_machine(),
        views=png_uri(Image.open(out / "run" / "views.png")),
        curve=loss_curve(read_metrics(out / "run"), _queue(out)),
        heat=png_uri(_heat(out, model)),
        results=tuple(results),
        names={str(model): "InsLoc, this run"},
        differences=differences,
        tensors=tensors,
        request=request,
        answer=answer,
        served_error=served_error,
        commands=_next(out),
    )
    write_text(out / "report.html", page(story))
    return out / "report.html"


def open_folder(out: Path, settings: dict[str, Any]) -> None:
    """Take `out` for a demo of these settings. BadRun: it holds another demo, or somebody's files."""
    check_writable(out)
    stamp = out / STAMP
    if stamp.is_file():
        found = json.loads(stamp.read_text(encoding="utf-8"))
        if found != settings:
            raise BadRun(f"{out} holds a demo of other settings ({found}); choose another --out or delete it")
        return
    if out.is_dir() and any(out.iterdir()):
        raise BadRun(f"{out} is not empty and holds no demo; choose another --out")
    write_json(stamp, settings)


def _pretrain(out: Path, seed: int, steps: int) -> tuple[Recipe, float | None]:
    recipe = replace(at_canvas(insloc_c4_small(), CANVAS), arch=ARCH, seed=seed)
    resumed = (out / "run" / FILE).exists()
    options = RunOptions(
        data=out / "world" / "train",
        run=out / "run",
        steps=steps,
        resume=resumed,
        command=f"insloc demo --seed {seed}",
    )
    started = time.monotonic()
    finish = pretrain(None if resumed else recipe, options)
    if finish.interrupted:
        raise KeyboardInterrupt
    return recipe, None if resumed else time.monotonic() - started


def _queue(out: Path) -> int:
    facts = json.loads((out / "run" / "run.json").read_text(encoding="utf-8"))
    return int(facts["recipe"]["queue"])
