"""What is said of a folder of the reference run: differences to the control, tries, cost, openings of half B, tables."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from insloc_eval.compare import NotComparable, compare_models, sentences
from insloc_eval.report.markdown import markdown
from insloc_eval.store import browse
from insloc_hub.errors import BadData
from insloc_hub.files import write_text
from insloc_hub.records import Result
from reference.judge import looks
from reference.plan import PRIMARY_ARMS, STAGES, Asked

CONTROL = "moco_v2"
DETECTION = "detection"  # the family


def report(asked: Asked) -> Path:
    """Write OUT/report.md; scores come from the records alone, as `insloc-eval report` and `compare` print them."""
    shelf = browse(asked.records)
    specs = {result.model.spec for result in shelf.results}
    lines = [f"# Reference run, setting `{asked.setting.name}`", ""]
    lines += ["## Differences", "", *differences(asked, arms_of(specs))]
    lines += ["## Detectors and random weights", "", *beside_random(asked, shelf.results)]
    lines += ["## Tries", "", *tries(asked), ""]
    lines += ["## Cost of training", "", *cost(asked), ""]
    lines += ["## Openings of half B", "", *openings(asked), ""]
    lines += ["## Records", "", markdown(shelf.results), *(f"- unusable: {problem}" for problem in shelf.problems)]
    write_text(asked.out / "report.md", "\n".join(lines))
    return asked.out / "report.md"


def arms_of(specs: set[str]) -> list[str]:
    """The arms that have records, in the order of the plan."""
    names = {Path(spec).name for spec in specs}
    every = dict.fromkeys(arm for stage in STAGES for arm in stage.arms)
    return [arm for arm in every if any(name.startswith(f"{arm}-s") for name in names)]


def differences(asked: Asked, arms: list[str]) -> list[str]:
    """Every arm minus the control, question by question, in the judge's own words."""
    if CONTROL not in arms:
        return ["None: the control has no record.", ""]
    pairs = [(arm, CONTROL, f"*/{CONTROL}-s*") for arm in arms if arm != CONTROL]
    return [line for arm, name, pattern in pairs for line in minus(asked, arm, name, pattern)]


def beside_random(asked: Asked, results: Sequence[Result]) -> list[str]:
    """The primary arms' detectors minus those that began from random weights."""
    detectors = [one for one in results if one.task == DETECTION]
    random = sorted({one.model.spec for one in detectors if one.model.spec.startswith("random:")})
    arms = [arm for arm in arms_of({one.model.spec for one in detectors}) if arm in PRIMARY_ARMS]
    pairs = [(arm, name) for arm in arms for name in random]
    return [line for arm, name in pairs for line in minus(asked, arm, name, name, DETECTION)] or ["None.", ""]


def minus(asked: Asked, arm: str, name: str, pattern: str, task: str = "") -> list[str]:
    """One arm minus the models of a pattern, in every question that both answered; `task`: of this family only."""
    try:
        found = compare_models(asked.records, f"*/{arm}-s*", pattern)
    except (NotComparable, BadData) as error:
        return [f"{arm} minus {name}: {error}", ""]
    lines: list[str] = []
    for one in (one for one in found if task in ("", one.first[0].task)):
        lines += ["```", f"{arm} minus {name}; {one.first[0].data.split}", *sentences(one), "```", ""]
    return lines


def tries(asked: Asked) -> list[str]:
    """What was chosen, and every try's score on half A."""
    path = asked.out / "chosen.json"
    if not path.is_file():
        return ["None."]
    content = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"By {content['by']}: " + ", ".join(f"{arm} takes `{name}`" for arm, name in content["tries"].items())]
    for arm, scores in content.get("scores", {}).items():
        lines += [f"- {arm}: " + ", ".join(f"`{name}` {score:.4f}" for name, score in scores.items())]
    return lines


def cost(asked: Asked) -> list[str]:
    """Seconds of every run from log.jsonl, start and reading of images included, calls that were cut too."""
    path = asked.out / "log.jsonl"
    seconds: dict[str, float] = defaultdict(float)
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        facts = json.loads(line)
        if "run" in facts:
            seconds[facts["run"]] += facts["seconds"]
    return [f"- {run}: {spent:.1f} s" for run, spent in sorted(seconds.items())] or ["None."]


def openings(asked: Asked) -> list[str]:
    """Who was shown half B, and when in the history of the code."""
    return [f"- look {one['look']}: {', '.join(one['runs'])}; commit {one['commit']}" for one in looks(asked)] or ["None."]
