"""Runs of the reference run: pretrained, gone on with, exported; the pilots' choice; a profile."""

import json
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from insloc_eval.job import OutOfTime
from insloc_hub.errors import BadRun
from insloc_hub.files import write_json, write_text
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.run import pretrain, read_run
from insloc_hub.progress import say
from insloc_hub.recipe import Recipe
from insloc_hub.release.export import export_run, read_metrics
from reference.plan import CHOICE_OF, CHOOSE_BY, TRIES, Asked, recipe_of

TERMS = "research only: trained on Tiny ImageNet, whose images' terms allow non-commercial research and education"
SHORTEST_S = 0.001  # a limit of no time at all is refused, and between two looks at the clock there may be none left
SLOW_START = 20  # steps that a profile leaves out, or a quarter of them where there are few
LOGGED = 3  # steps whose operators are written down


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """When this call must end, on time.monotonic()'s clock."""

    deadline: float = math.inf

    def left(self) -> float:
        """Seconds until then; endless where there is no limit."""
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """OutOfTime: it is over."""
        if self.left() <= 0:
            raise OutOfTime


def run_folder(asked: Asked, arm: str, seed: int) -> Path:
    """Where a run lives; records name it by this."""
    return asked.out / "runs" / f"{arm}-s{seed}"


def finished(run: Path) -> bool:
    """Whether it is trained to its end and exported."""
    config = run / "model" / "config.json"
    if not config.is_file():
        return False
    steps = json.loads(config.read_text(encoding="utf-8"))["insloc"]["steps"]
    return int(steps) == int(read_run(run)["total_steps"])


def train_run(asked: Asked, recipe: Recipe, run: Path, clock: Clock) -> None:
    """Train into `run` to the end and export it; a finished one is left alone. OutOfTime: cut at a step, saved."""
    if finished(run):
        return
    clock.check()
    options = RunOptions(
        data=asked.data / "train",
        run=run,
        steps=asked.steps(),
        resume=True,
        if_any=True,
        time_limit_s=max(clock.left(), SHORTEST_S),
        device=asked.device,
        command=f"benchmarks/reference_run.py: {run.name}",
    )
    say(f"{run.name}: pretraining")
    started = time.monotonic()
    finish = pretrain(recipe, options)
    note(asked, {"run": run.name, "step": finish.step, "total": finish.total, "seconds": time.monotonic() - started})
    if finish.out_of_time:
        raise OutOfTime
    if finish.interrupted:
        raise KeyboardInterrupt
    export_run(run, TERMS)


def train_arms(asked: Asked, arms: tuple[str, ...], clock: Clock) -> None:
    """Seed by seed, so that a cut leaves whole pairs."""
    chosen = choice(asked)
    for seed in asked.seeds:
        for arm in arms:
            changes = TRIES[chosen[CHOICE_OF.get(arm, arm)]]
            train_run(asked, recipe_of(asked, arm, seed, changes), run_folder(asked, arm, seed), clock)


def train_pilots(asked: Asked, arms: tuple[str, ...], clock: Clock) -> dict[str, dict[str, Path]]:
    """Arm -> try -> its finished run, seed 0; a try of all arms before the next. OutOfTime."""
    found: dict[str, dict[str, Path]] = {arm: {} for arm in arms}
    for name, changes in TRIES.items():
        for arm in arms:
            run = asked.out / "runs" / f"pilot-{arm}-{name}"
            train_run(asked, recipe_of(asked, arm, 0, changes, asked.setting.pilot_epochs), run, clock)
            found[arm][name] = run
    return found


def choice(asked: Asked) -> dict[str, str]:
    """Primary arm -> its try; settled at the first training after the pilots, or without any, and kept from then on."""
    path = asked.out / "chosen.json"
    if not path.is_file():
        write_json(path, {"by": "first values: no pilot was judged", "tries": {"insloc_c4": "first", "moco_v2": "first"}})
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dict(content["tries"])


def settle_choice(asked: Asked, scores: dict[str, dict[str, float]]) -> None:
    """Write chosen.json from the tries' scores on half A; of equals the first. BadRun: training began with other values."""
    path = asked.out / "chosen.json"
    tries = {arm: max(of, key=lambda name: of[name]) for arm, of in scores.items()}
    if path.is_file() and choice(asked) != tries:
        raise BadRun(f"{path}: runs began with {choice(asked)}, and the pilots chose {tries}; take a new --out for these")
    write_json(path, {"by": " ".join(CHOOSE_BY) + ", half A, seed 0", "tries": tries, "scores": scores})
    say(f"chosen: {tries}")


def profile_arms(asked: Asked, arms: tuple[str, ...], clock: Clock) -> None:
    """profile.json: speed and waiting of a short run an arm; profile-ARM.txt: the operators of a few more steps."""
    path = asked.out / "profile.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for arm in (arm for arm in arms if arm not in known):
        clock.check()
        known[arm] = profile_arm(asked, arm)
        write_json(path, known)


def profile_arm(asked: Asked, arm: str) -> dict[str, float]:
    """The speed of one arm; writes its operators. A profile is not gone on with: a cut one starts anew."""
    steps = asked.setting.profile_steps
    run = asked.out / "runs" / f"profile-{arm}"
    shutil.rmtree(run, ignore_errors=True)
    options = RunOptions(data=asked.data / "train", run=run, steps=steps + LOGGED, device=asked.device)
    pretrain(recipe_of(asked, arm, 0, {}), options, lambda step: step >= steps)
    speed = speed_of(run)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as log:
        pretrain(None, replace(options, resume=True))
    by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    write_text(asked.out / f"profile-{arm}.txt", log.key_averages().table(sort_by=by, row_limit=25))
    return speed


def speed_of(run: Path) -> dict[str, float]:
    """Samples/s end to end and the share of that time spent waiting for data, without the slow first steps."""
    lines = read_metrics(run)
    lines = lines[min(SLOW_START, len(lines) // 4) :]
    waited, worked = (sum(line[key] for line in lines) for key in ("wait_s", "step_s"))
    samples = read_run(run)["recipe"]["batch"] * len(lines)
    return {"samples_per_s": round(samples / (waited + worked), 1), "wait_share": round(waited / (waited + worked), 4)}


def note(asked: Asked, facts: dict[str, Any]) -> None:
    """A line of OUT/log.jsonl: what was done, how long it took."""
    asked.out.mkdir(parents=True, exist_ok=True)
    with (asked.out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}) + "\n")
