"""Judging the runs: on half A freely, on half B once, with a trace; and the report, made of records alone."""

import json
from pathlib import Path

from insloc_eval.compare import NotComparable, compare_models, sentences
from insloc_eval.report.markdown import markdown
from insloc_eval.run import evaluate
from insloc_eval.store import browse
from insloc_hub.errors import BadData, BadRun
from insloc_hub.files import write_text
from insloc_hub.records import Result, environment
from reference.plan import CHOOSE_BY, PRIMARY_ARMS, SEEDS_NEEDED, STAGES, Asked
from reference.train import Clock, finished, note, run_folder, settle_choice

LOOKS = "looks.jsonl"
CONTROL = "moco_v2"


def judge(asked: Asked, runs: list[Path], half: str, clock: Clock) -> list[Result]:
    """The setting's tasks on one half, task by task so that a cut leaves whole comparisons. OutOfTime."""
    setting = asked.setting
    tasks = [(task, half) for task in setting.tasks]
    tasks += [(f"regions/mosaic-{half.lower()}", "")] if setting.mosaic else []
    found: dict[str, Result] = {}
    for task, cut in tasks:
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
            )
            found |= {result.id: result for result in results}
    return list(found.values())


def judge_pilots(asked: Asked, tries: dict[str, list[Path]], clock: Clock) -> None:
    """Judge every try on half A and settle the choice. BadRun: half B was opened, so nothing may be chosen any more."""
    if (asked.out / LOOKS).exists():
        raise BadRun(f"{asked.out}: half B was opened ({LOOKS}); recipes are no longer chosen. Take a new --out")
    protocol, metric = CHOOSE_BY
    for runs in tries.values():
        judge(asked, runs, "A", clock)
    scores: dict[str, dict[str, float]] = {arm: {} for arm in tries}
    for arm, runs in tries.items():
        for run in runs:
            name = run.name.removeprefix(f"pilot-{arm}-")
            for result in browse(asked.records).results:
                if result.protocol == protocol and Path(result.model.spec).name == run.name:
                    scores[arm][name] = result.metrics[metric].value
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


def report(asked: Asked) -> Path:
    """OUT/report.md: differences to the control, the openings of half B, then every table; of records alone."""
    shelf = browse(asked.records)
    known = {Path(result.model.spec).name.rsplit("-s", 1)[0] for result in shelf.results}
    arms = [arm for arm in dict.fromkeys(arm for stage in STAGES for arm in stage.arms) if arm in known]
    lines = [f"# Reference run, setting `{asked.setting.name}`", "", "## Differences", ""]
    for arm in (arm for arm in arms if arm != CONTROL and CONTROL in arms):
        try:
            compared = compare_models(asked.records, f"*{arm}-s*", f"*{CONTROL}-s*")
        except (NotComparable, BadData) as error:
            lines += [f"{arm} minus {CONTROL}: {error}", ""]
            continue
        for one in compared:
            where = one.first[0].data.split
            lines += ["```", f"{where}", *sentences(one), "```", ""]
    lines += ["## Openings of half B", ""]
    lines += [f"- look {line['look']}: {', '.join(line['runs'])}; commit {line['commit']}" for line in looks(asked)] or [
        "None."
    ]
    lines += ["", "## Records", "", markdown(shelf.results)]
    lines += [f"- unusable: {problem}" for problem in shelf.problems]
    write_text(asked.out / "report.md", "\n".join(lines))
    return asked.out / "report.md"
