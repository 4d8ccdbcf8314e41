"""Models x tasks: load, compute random-initialisation rows beside, judge, keep. `evaluate` is what the CLI and the demo call.

A record's id is known before anything is computed, so a finished job is never done twice and an interrupted run goes on
where it stopped.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from insloc_eval.ask import Ask, Tuning, shown
from insloc_eval.protocols import Detection, Protocol
from insloc_eval.store import Judged, load, outcomes_of, record_path, save
from insloc_hub.errors import BadData
from insloc_hub.progress import say
from insloc_hub.records import Result

if TYPE_CHECKING:
    from insloc_eval.job import Job
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
    tuning: Tuning | None = None,
    deadline: float = math.inf,
) -> list[Result]:
    """Judge `models` by `tasks` on the images of `data`, keep the records in `out` and return them.

    Two randomly initialised networks of each architecture (timm's initialisation and ordinary norms) are judged beside,
    first. Finished records of `out` are read, not computed again. `data`: see contracts.md 9; `half`: A or B, that half of
    the test images only (contracts.md 10). InslocError; OutOfTime: `deadline`, on time.monotonic()'s clock, has passed: between
    two records, or in a detector's training at a step, saved.
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
        tuning=tuning or Tuning(),
        deadline=deadline,
    )
    ask.check()
    from insloc_eval.networks import FLOOR_SEED, floor_networks, load_network

    splits = splits_of(ask)
    floors: dict[str, list[Result]] = {}
    results: dict[str, Result] = {}
    for spec in dict.fromkeys(models):
        extractor = load_network(spec, ask.device, ask.precision)
        if extractor.arch not in floors:
            floors[extractor.arch] = [
                _judge(job, out, [])
                for name, random in floor_networks(extractor.arch, ask.device, ask.precision)
                for job in jobs_of(name, random, ask, splits, f"random:{extractor.arch}@{FLOOR_SEED}", floors=True)
            ]
            results |= {result.id: result for result in floors[extractor.arch]}
        for job in jobs_of(shown(spec), extractor, ask, splits, spec):
            if job.id not in results:
                floor = [] if spec.startswith("random:") else floors[extractor.arch]
                results[job.id] = _judge(job, out, floor)
    return list(results.values())


def splits_of(ask: Ask) -> dict[str, "Split"]:
    """What each protocol learns from and is asked on, by its title."""
    from insloc_eval.detection.split import load_detection_split
    from insloc_eval.sets import load_split

    splits: dict[str, Split] = {}
    kept: dict[tuple[bool, bool], Split] = {}
    limits = {"train_limit": ask.train_limit, "test_limit": ask.test_limit}
    for protocol in ask.protocols():
        if isinstance(protocol, Detection):
            split: Split = load_detection_split(ask.data, protocol, **limits)
            say(f"{protocol.title}: {split.learned} training and {split.tested} test images of {split.name} ({split.how})")
        else:
            needs = protocol.needs_labels, protocol.needs_boxes
            if needs not in kept:
                kept[needs] = load_split(ask.data, labels=needs[0], boxes=needs[1], half=ask.half, **limits)
            split = kept[needs]
        splits[protocol.title] = split
    if kept:
        split = next(iter(kept.values()))
        say(f"{split.name}: {split.learned} training and {split.tested} test images ({split.how})")
    return splits


def jobs_of(
    name: str, extractor: "Extractor", ask: Ask, splits: dict[str, "Split"], spec: str, floors: bool = False
) -> Iterator["Job"]:
    """One job for each protocol and seed; made when its turn comes, since it looks at the clock.

    `floors`: the network is judged only for others to beat it, for which no detector is trained unasked.
    """
    from insloc_eval.cache import default_folder
    from insloc_eval.job import Job, data_facts
    from insloc_eval.origin import origin

    for protocol in ask.protocols_for(spec):
        if floors and protocol.needs_detections:
            continue
        split = splits[protocol.title]
        for seed in ask.seeds_of(protocol):
            yield Job(
                extractor=extractor,
                protocol=protocol,
                split=split,
                data=data_facts(split, protocol),
                seed=seed,
                cache=ask.cache or default_folder(),
                shown=name,
                out=ask.out,
                spec=spec,
                parts_sha256=_parts_digest(spec, protocol),
                origin=origin(spec),
                command=ask.command(),
                deadline=ask.deadline,
            )


def _parts_digest(spec: str, protocol: Protocol) -> str:
    """Of the pretrained neck and head that the protocol starts from; empty: of none."""
    if not isinstance(protocol, Detection) or protocol.init_parts == "trunk":
        return ""
    from insloc_eval.detection.network.parts import read_parts
    from insloc_hub.models.create import tensors_digest

    return tensors_digest(read_parts(spec))


def _judge(job: "Job", out: Path, floors: list[Result]) -> Result:
    """The stored record of a job, or a new one. OutOfTime."""
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
    job.check_time()
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
