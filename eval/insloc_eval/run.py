"""Models x tasks: load, compute random-initialisation rows beside, judge, keep. `evaluate` is what the CLI and the demo call.

A record's id is known before anything is computed, so a finished job is never done twice and an interrupted run goes on
where it stopped.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from insloc_eval.ask import Ask, shown
from insloc_eval.store import Judged, load, outcomes_of, record_path, save
from insloc_hub.errors import BadData
from insloc_hub.progress import say
from insloc_hub.records import Result

if TYPE_CHECKING:
    from insloc_eval.job import Job
    from insloc_eval.origin import Origin
    from insloc_eval.sets import Split
    from insloc_hub.models.extractor import Extractor


def evaluate(
    models: list[str],
    tasks: list[str],
    data: Path,
    out: Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    cache: Path | None = None,
    half: str = "",
) -> list[Result]:
    """Judge `models` by `tasks` on the images of `data`, keep the records in `out` and return them.

    Two randomly initialised networks of each architecture (timm's initialisation and ordinary norms) are judged beside,
    first. Finished records of `out` are read, not computed again. `data`: see contracts.md 9; `half`: A or B, that half of
    the test images only (contracts.md 10). InslocError.
    """
    ask = Ask(
        models=tuple(models),
        tasks=tuple(tasks),
        data=data,
        out=out,
        device=device,
        precision=precision,
        seed=seed,
        train_limit=train_limit,
        test_limit=test_limit,
        cache=cache,
        half=half,
    )
    ask.check()
    from insloc_eval.networks import FLOOR_SEED, floor_networks, load_network
    from insloc_eval.origin import origin

    splits = splits_of(ask)
    floors: dict[str, list[Result]] = {}
    results: dict[str, Result] = {}
    for spec in dict.fromkeys(models):
        extractor = load_network(spec, ask.device, ask.precision)
        if extractor.arch not in floors:
            floors[extractor.arch] = [
                _judge(job, out, [])
                for name, random in floor_networks(extractor.arch, ask.device, ask.precision)
                for job in jobs_of(name, random, ask, splits, origin(f"random:{extractor.arch}@{FLOOR_SEED}"))
            ]
            results |= {result.id: result for result in floors[extractor.arch]}
        for job in jobs_of(shown(spec), extractor, ask, splits, origin(spec)):
            if job.id not in results:
                floor = [] if spec.startswith("random:") else floors[extractor.arch]
                results[job.id] = _judge(job, out, floor)
    return list(results.values())


def splits_of(ask: Ask) -> dict[tuple[bool, bool], "Split"]:
    """What the protocols learn from and are asked on, by whether labels and boxes are needed."""
    from insloc_eval.sets import load_split

    splits = {}
    limits = {"train_limit": ask.train_limit, "test_limit": ask.test_limit}
    for labels, boxes in sorted({(protocol.needs_labels, protocol.needs_boxes) for protocol in ask.protocols()}):
        splits[labels, boxes] = load_split(ask.data, labels=labels, boxes=boxes, half=ask.half, **limits)
    split = next(iter(splits.values()))
    say(f"{split.name}: {len(split.train)} training and {len(split.test)} test images ({split.how})")
    return splits


def jobs_of(
    name: str, extractor: "Extractor", ask: Ask, splits: dict[tuple[bool, bool], "Split"], source: "Origin"
) -> Iterator["Job"]:
    """One job for each protocol; made when its turn comes, since it looks at the clock."""
    from insloc_eval.cache import default_folder
    from insloc_eval.job import Job, data_facts

    for protocol in ask.protocols():
        split = splits[protocol.needs_labels, protocol.needs_boxes]
        yield Job(
            extractor=extractor,
            protocol=protocol,
            split=split,
            data=data_facts(split, protocol),
            seed=ask.seed,
            cache=ask.cache or default_folder(),
            shown=name,
            origin=source,
            command=ask.command(),
        )


def _judge(job: "Job", out: Path, floors: list[Result]) -> Result:
    """The stored record of a job, or a new one."""
    from insloc_eval.floors import floor_notes

    path = record_path(out, job.protocol.family, job.id)
    if path.exists():
        try:
            kept = load(path).result
        except BadData as error:
            say(f"a stored record is unusable and is computed again: {error}")
        else:
            say(f"{job.protocol.title} of {job.shown}: kept, {path}")
            return kept
    judged = judge(job)
    beside = [load(record_path(out, floor.task, floor.id)) for floor in floors]
    result = judged.result
    result = replace(result, notes=(*floor_notes(judged, job.protocol, beside), *result.notes))
    save(out, Judged(result=result, outcomes=judged.outcomes))
    say(f"{job.protocol.title} of {job.shown}: {result.duration_s:.1f} s, {path}")
    return result


def judge(job: "Job") -> Judged:
    """Run a job's task; where the model can't do it, the record of that."""
    from insloc_eval.job import NotApplicable
    from insloc_eval.tasks import TASKS

    try:
        return TASKS[f"{job.protocol.family}/{job.protocol.name}"](job)
    except NotApplicable as reason:
        return Judged(result=job.result({}, {}, {}, (), not_applicable=str(reason)), outcomes=outcomes_of(()))
