"""Judging the runs: on half A freely, on half B once, with a trace."""

import json
from pathlib import Path

from insloc_eval.run import evaluate
from insloc_hub.errors import BadRun
from insloc_hub.records import Result, environment
from reference.plan import CHOOSE_BY, PRIMARY_ARMS, SEEDS_NEEDED, STAGES, Asked
from reference.train import Clock, finished, note, run_folder, settle_choice, train_pilots

LOOKS = "looks.jsonl"


def judge(asked: Asked, runs: list[Path], half: str, clock: Clock) -> list[Result]:
    """Every task of the setting on one half. OutOfTime, between two records."""
    mosaic = [f"regions/mosaic-{half.lower()}"] if asked.setting.mosaic else []
    return judge_by(asked, runs, [*asked.setting.tasks, *mosaic], half, clock)


def judge_by(asked: Asked, runs: list[Path], tasks: list[str], half: str, clock: Clock) -> list[Result]:
    """The records of `runs` by `tasks`, task by task so that a cut leaves whole comparisons. OutOfTime."""
    setting = asked.setting
    found: dict[str, Result] = {}
    for task in tasks:
        cut = "" if task.startswith("regions/mosaic") else half  # the mosaics' protocol halves by itself
        for run in runs:
            clock.check()
            results = evaluate(
                [str(run)],
                [task],
                asked.data,
                asked.records,
                device=asked.device,
                half=cut,
                train_limit=setting.train_limit,
                # A limit even over the classes would leave no whole mosaics of so few.
                test_limit=setting.test_limit if cut else None,
                cache=asked.out / "features",
                deadline=clock.deadline,
            )
            found |= {result.id: result for result in results}
    return list(found.values())


def run_pilots(asked: Asked, arms: tuple[str, ...], clock: Clock) -> None:
    """Train every try, judge it on half A, settle the choice. BadRun: half B was opened, so nothing may be chosen any more."""
    if (asked.out / LOOKS).exists():
        raise BadRun(f"{asked.out}: half B was opened ({LOOKS}); recipes are no longer chosen. Take a new --out")
    tries = train_pilots(asked, arms, clock)
    task, metric = CHOOSE_BY
    scores: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for arm, runs in tries.items():
        for name, run in runs.items():
            *_, mine = judge_by(asked, [run], [task], "A", clock)  # after the random networks'
            scores[arm][name] = mine.metrics[metric].value
    settle_choice(asked, scores)


def finished_runs(asked: Asked) -> list[Path]:
    """Every trained arm of every asked seed, the primary ones first."""
    arms = dict.fromkeys(arm for stage in STAGES for arm in stage.arms)
    runs = [run_folder(asked, arm, seed) for arm in arms for seed in asked.seeds]
    return [run for run in runs if finished(run)]


def open_half_b(asked: Asked, runs: list[Path]) -> None:
    """Write down who is about to be shown half B. BadRun: fewer than three finished seeds of a primary arm."""
    for arm in PRIMARY_ARMS:
        seeds = [seed for seed in asked.seeds if run_folder(asked, arm, seed) in runs]
        if len(seeds) < SEEDS_NEEDED:
            raise BadRun(
                f"half B is looked at once, with {SEEDS_NEEDED} finished seeds of {' and '.join(PRIMARY_ARMS)}; of {arm} "
                f"there are {len(seeds)}. Train them (stage main), or look around on half A (stage judge-a)"
            )
    path = asked.out / LOOKS
    before = {name for line in looks(asked) for name in line["runs"]}
    new = [run.name for run in runs if run.name not in before]
    if new:
        commit = environment().get("git", "unknown")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"look": len(looks(asked)) + 1, "commit": commit, "runs": new}) + "\n")
    note(asked, {"half_b": new or "the same runs again"})


def looks(asked: Asked) -> list[dict[str, list[str]]]:
    """The openings of half B so far."""
    path = asked.out / LOOKS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
