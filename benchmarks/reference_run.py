"""The reference run (docs/reference-run.md): one command, cut and gone on with, from tar shards to records and a report.

    python benchmarks/reference_run.py --out runs/reference --list
    python benchmarks/reference_run.py --out runs/reference --time-limit 9m      # again until it exits with 0
    python benchmarks/reference_run.py --out runs/dry --dry-run                  # every stage on the CPU, minutes

Stages with their minutes stand in reference/plan.py. Exit codes: 0 done, 75 out of time (give the command again), 2 a
refusal in words, 130 stopped by hand. Two calls into one folder must ask for the same setting, budget and precision.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from reference.plan import CPU, DRY, FULL, STAGES, Asked, Stage

from insloc_hub.errors import BadRun, InslocError
from insloc_hub.files import check_writable, write_json
from insloc_hub.pretrain.options import seconds_of
from insloc_hub.progress import say

if TYPE_CHECKING:
    from reference.train import Clock

OUT_OF_TIME = 75
WORLD_TRAIN, WORLD_VAL = 4, 6  # images a class of the dry run: enough for two mosaics of 9 in each half


def main(
    out: Path,
    *,
    data: Path | None = None,
    bccd: Path | None = None,
    cpu: bool = False,
    dry_run: bool = False,
    stages: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="STAGE ...")] = None,
    seeds: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INT ...")] = None,
    budget: float = 1.0,
    time_limit: str | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    list: bool = False,
) -> int:
    """Pretrain, export, judge and report the arms of docs/reference-run.md; the exit code.

    Args:
        out: Folder to fill, or to go on with.
        data: Folder with train and val shards and boxes.json; by default tiny-imagenet of INSLOC_DATA.
        bccd: VOC devkit of the blood cells for stage detection; by default bccd of INSLOC_DATA, where it is unpacked.
        cpu: The rehearsal's small setting.
        dry_run: Every stage at a toy size on a procedural world: shows that it runs, and nothing else.
        stages: What to do, in this order; --list shows them.
        seeds: Pretraining seeds of every arm.
        budget: Scales epochs and steps.
        time_limit: Stop after this long, cleanly: 90s, 9m, 2h.
        device: auto, cpu, cuda or cuda:N.
        precision: Of pretraining and of detectors; frozen features are judged in fp32.
        list: Show the stages with their minutes and stop.
    """
    if cpu and dry_run:
        raise InslocError("--cpu and --dry-run are two sizes; give one")
    setting = DRY if dry_run else CPU if cpu else FULL
    if list:
        print("\n".join(f"{s.name:10} {s.minutes:>10} min  {s.about}" for s in STAGES))
        return 0
    asked = Asked(
        out=out.absolute(),
        data=(out / "world").absolute() if dry_run else data or default_data(),
        setting=setting,
        stages=stages or setting.stages,
        seeds=seeds or setting.seeds,
        bccd=blood_cells(bccd, dry_run),
        budget=budget,
        device="cpu" if (cpu or dry_run) and device == "auto" else device,
        precision=precision or setting.precision,
    )
    deadline = math.inf if time_limit is None else time.monotonic() + seconds_of(time_limit)
    open_folder(asked)
    return work_through(asked, deadline)


def default_data() -> Path:
    """InslocError: INSLOC_DATA is not set."""
    place = os.environ.get("INSLOC_DATA")
    if not place:
        raise InslocError("no images: give --data, or set INSLOC_DATA to the folder that has tiny-imagenet")
    return Path(place) / "tiny-imagenet"


def blood_cells(given: Path | None, dry_run: bool) -> Path | None:
    """BCCD: the given folder, or INSLOC_DATA's where it is unpacked (never in a dry run). InslocError: none in the given."""
    if given is not None and not unpacked(given):
        raise InslocError(f"--bccd {given}: no boxes there; give the folder that bccd.tar unpacks to (ImageSets, Annotations)")
    place = os.environ.get("INSLOC_DATA")
    found = Path(place) / "bccd" if place and not dry_run else None
    return given or (found if found and unpacked(found) else None)


def unpacked(folder: Path) -> bool:
    """Whether boxes lie in a folder: VOC's, as in bccd.tar, or COCO files. Without the readers, which import torch."""
    return (folder / "Annotations").is_dir() or (folder / "annotations").is_dir()


def open_folder(asked: Asked) -> None:
    """Take OUT for these settings. BadRun: it was begun with others; BadData: no images."""
    from insloc_eval.ask import check_data

    check_writable(asked.out)
    if asked.setting is DRY:
        from insloc_hub.demo.world import write

        write(asked.data, train_per_class=WORLD_TRAIN, val_per_class=WORLD_VAL)
    check_data(asked.data)
    said = {"setting": asked.setting.name, "budget": asked.budget, "precision": asked.precision, "data": asked.data.name}
    stamp = asked.out / "settings.json"
    if not stamp.is_file():
        write_json(stamp, said)
    elif (found := json.loads(stamp.read_text(encoding="utf-8"))) != said:
        raise BadRun(f"{asked.out} was begun with {found}, now asked with {said}; take another --out")


def work_through(asked: Asked, deadline: float) -> int:
    """The stages in their order; the exit code."""
    from reference.train import Clock, note

    from insloc_eval.job import OutOfTime

    clock = Clock(deadline=deadline)
    table = {stage.name: stage for stage in STAGES}
    for name in asked.stages:
        started = time.monotonic()
        try:
            do(asked, table[name], clock)
        except OutOfTime:
            say(f"out of time in stage {name}; saved. Give the same command again to go on")
            return OUT_OF_TIME
        note(asked, {"stage": name, "seconds": round(time.monotonic() - started, 1)})
    return 0


def do(asked: Asked, stage: Stage, clock: "Clock") -> None:
    """One stage, from where it was left. OutOfTime."""
    from reference import detect, judge, report, train

    if stage.name == "profile":
        train.profile_arms(asked, stage.arms, clock)
    elif stage.name == "pilots":
        judge.run_pilots(asked, stage.arms, clock)
    elif stage.name == "judge-a":
        judge.judge(asked, judge.finished_runs(asked), "A", clock)
    elif stage.name == "judge-b":
        runs = judge.finished_runs(asked)
        judge.open_half_b(asked, runs)
        judge.judge(asked, runs, "B", clock)
    elif stage.name == "detection":
        detect.detect(asked, clock)
    elif stage.name == "report":
        say(f"wrote {report.report(asked)}")
    else:
        train.train_arms(asked, stage.arms, clock)


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except InslocError as error:
        print(f"reference_run: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("reference_run: stopped; give the same command again to go on", file=sys.stderr)
        sys.exit(130)
