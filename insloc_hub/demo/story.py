"""The main job, once through every room: draw a world, pretrain, export, evaluate, serve, report.

A second call with the same settings goes on where the first one was stopped; each part knows what it has finished.
"""

import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from insloc_eval.compare import compare_models, verdict
from insloc_eval.run import evaluate
from insloc_hub.demo import world
from insloc_hub.demo.ask import ask_server
from insloc_hub.demo.look import heat_sheet
from insloc_hub.demo.pictures import loss_curve, png_uri
from insloc_hub.demo.report import Story, page
from insloc_hub.errors import BadRun
from insloc_hub.files import check_writable, write_json, write_text
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.resume import FILE
from insloc_hub.pretrain.run import pretrain, read_run
from insloc_hub.progress import say, track
from insloc_hub.recipe import Recipe, at_canvas
from insloc_hub.recipes import insloc_c4_small
from insloc_hub.records import Result
from insloc_hub.release.export import check_export, export_run, read_metrics

VERSION = 1  # of the demo's settings: raise it when an older folder can't be gone on with
STAMP = "demo.json"
ARCH = "resnet10t"  # the smallest ResNet of timm: what two CPU cores can train in a minute
CANVAS = 96
FULL = {"train_per_class": 100, "val_per_class": 25, "steps": 240, "judged_on": 600}
FAST = {"train_per_class": 12, "val_per_class": 6, "steps": 12, "judged_on": 144}
RANDOM = f"random:{ARCH}"
PRIMARY = {"linear/logistic@1": "top1", "patches/linear@1": "top1", "patches/relocate@1": "acc50"}


def tell(out: Path, *, seed: int, fast: bool) -> Path:
    """Do it all in `out` and return the report's path. InslocError: the folder holds something else, or can't be written.

    `fast` does a tenth of the work. KeyboardInterrupt: stopped by the user; the same call goes on.
    """
    started = time.monotonic()
    settings = FAST if fast else FULL
    open_folder(out, {"version": VERSION, "seed": seed, **settings})
    say(f"1/6  draw a world of shapes -> {out / 'world'}")
    facts = _draw(out, seed, settings)
    say(f"2/6  pretrain {ARCH} on it without labels -> {out / 'run'}")
    recipe, pretrain_s = _pretrain(out, seed, settings["steps"])
    say(f"3/6  export for plain timm -> {out / 'run' / 'model'}")
    model = export_run(out / "run")
    tensors = check_export(model)
    say(f"4/6  evaluate beside two random initialisations -> {out / 'results'}")
    results, differences = _evaluate(out, model, settings["judged_on"])
    say("5/6  serve pooled and per-box features")
    served = ask_server(model, out / "world", facts)
    say("6/6  report")
    story = Story(
        arch=ARCH,
        steps=settings["steps"],
        images_seen=settings["steps"] * recipe.batch,
        pretrain_s=pretrain_s,
        total_s=time.monotonic() - started,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        views=png_uri(Image.open(out / "run" / "views.png")),
        curve=loss_curve(read_metrics(out / "run"), read_run(out / "run")["recipe"]["queue"]),
        heat=png_uri(heat_sheet(out / "world", facts, [RANDOM, str(model)])),
        results=tuple(results),
        differences=differences,
        tensors=tensors,
        request=served.request,
        answer=served.answer,
        served_error=served.error,
        commands=next_commands(out),
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


def next_commands(out: Path) -> tuple[tuple[str, str], ...]:
    """What to do after this page: reason, command."""
    return (
        ("Look at the records, or compare two of them:", f"insloc-eval report {out / 'results'}"),
        (
            "Pretrain on your own images, for hours rather than a minute (it says how long, and --resume goes on):",
            "insloc pretrain --data PHOTOS --arch resnet18 --out runs/first --epochs 50",
        ),
        (
            "Ask whether it became any better, on labelled images:",
            "insloc-eval run --model runs/first --task linear --task patches --data LABELLED --out results",
        ),
        ("Serve it:", f"insloc-server --model {out / 'run' / 'model'}"),
        (
            "Load it without insloc_hub:",
            f"import timm; timm.create_model('local-dir:{out / 'run' / 'model'}', pretrained=True, num_classes=10)",
        ),
    )


def _draw(out: Path, seed: int, settings: dict[str, int]) -> world.WorldFacts:
    counts = {key: settings[key] for key in ("train_per_class", "val_per_class")}
    with track("draw", sum(counts.values()) * len(world.CLASSES)) as progress:
        return world.write(
            out / "world", seed=seed, **counts, progress=lambda done, total: progress.advance(done - progress.done)
        )


def _pretrain(out: Path, seed: int, steps: int) -> tuple[Recipe, float | None]:
    """The recipe, and the seconds it took if all of it happened in this call."""
    recipe = replace(at_canvas(insloc_c4_small(), CANVAS), arch=ARCH, seed=seed)
    resumed = (out / "run" / FILE).exists()
    options = RunOptions(
        data=out / "world" / "train", run=out / "run", steps=steps, resume=resumed, command=f"insloc demo --seed {seed}"
    )
    started = time.monotonic()
    finish = pretrain(None if resumed else recipe, options)
    if finish.interrupted:
        raise KeyboardInterrupt
    return recipe, None if resumed else time.monotonic() - started


def _evaluate(out: Path, model: Path, train_limit: int) -> tuple[list[Result], tuple[str, ...]]:
    """All records, and a sentence for each protocol: trained minus each random initialisation."""
    results = evaluate(
        [str(model)],
        ["linear/logistic", "patches/linear", "patches/relocate"],
        out / "world",
        out / "results",
        device="cpu",
        train_limit=train_limit,
        cache=out / "features",
    )
    mine = {r.model.spec for r in results if not r.model.spec.startswith("random:")}.pop()
    sentences = []
    for rival in sorted({r.model.spec for r in results} - {mine}):
        for comparison in compare_models(out / "results", mine, rival):
            protocol = comparison.protocol
            name = PRIMARY[protocol]
            said = verdict(name, comparison.differences[name], comparison.units[name])
            sentences.append(f"{protocol}, minus {rival}: {said}")
    return results, tuple(sorted(sentences))
