"""linear/sweep: class labels from frozen whole-image vectors, by the best of many heads, chosen on training images.

Beside the result stand the head chosen at the last step, and the head and moment that are best on the reported split:
what a report that picks there (field.md 2.1: most do) would claim for the same features.
"""

import torch

from insloc_eval.cache import cached
from insloc_eval.features import FeatureSpec, FeatureTable, max_spec, pooled_spec
from insloc_eval.job import Job
from insloc_eval.protocols.linear import Sweep
from insloc_eval.sets import held_out
from insloc_eval.stats import share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.sweep import SweepAnswer, sweep
from insloc_eval.tasks.linear import blind_rows, counts_of, labels_of, need_images, ranked
from insloc_hub.data.folder import ImageSet
from insloc_hub.errors import BadData


def run(job: Job) -> Judged:
    """Top-1 and top-5 of the test images by the chosen head, by the last, and by the one best on the test images."""
    protocol = job.protocol
    assert isinstance(protocol, Sweep)
    train = _tables(job, job.split.train, "training")
    test = _tables(job, job.split.test, "test")
    first, tested = train[protocol.poolings[0]], test[protocol.poolings[0]]
    need_images(job, first, tested)
    labels, truth = labels_of(job.split.train, first), labels_of(job.split.test, tested)
    out = torch.tensor(held_out(list(first.keys), list(labels.tolist()), protocol.held_out))
    if not bool(out.any()):
        raise BadData(job.split.train.root, "no class has two training images, so none can be held out to choose a head")
    answer = sweep(
        {name: table.values for name, table in train.items()},
        labels,
        out,
        {name: table.values for name, table in test.items()},
        truth,
        len(job.split.train.classes),
        protocol,
        job.seed,
        f"{job.shown}: heads",
    )
    learnt = len(set(labels.tolist()))
    outcomes = ranked(answer.chosen.scores, truth, protocol.top, learnt)
    assert answer.best_on_test is not None
    for suffix, choice in (("last", answer.last), ("best_on_val", answer.best_on_test)):
        outcomes |= {f"{name}_{suffix}": v for name, v in ranked(choice.scores, truth, protocol.top, learnt).items()}
    counts, notes = counts_of(first, tested)
    result = job.result(
        metrics={name: share(values) for name, values in outcomes.items()},
        rows=blind_rows(labels, truth, protocol.top, learnt),
        counts={**counts, "classes": learnt, "heads": answer.heads, "held_out": int(out.sum())},
        notes=(*remarks(answer, int(out.sum())), *notes),
    )
    return Judged(result=result, outcomes=outcomes_of(tested.keys, **outcomes))


def remarks(answer: SweepAnswer, held: int) -> tuple[str, ...]:
    """Which head was chosen, and what the numbers beside it are."""
    chosen = answer.chosen
    return (
        f"chosen of {answer.heads} heads: {chosen.head}; top-1 {chosen.accuracy:.3f} on {held} held-out training images",
        "..._best_on_val picks head and moment on the reported images: it is no result, only what picking there would claim",
    )


def _tables(job: Job, images: ImageSet, half: str) -> dict[str, FeatureTable]:
    protocol = job.protocol
    assert isinstance(protocol, Sweep)
    return {
        name: cached(job.extractor, images, _spec(job, name, protocol), job.cache, f"{job.shown}: {half} features, {name}")
        for name in protocol.poolings
    }


def _spec(job: Job, pooling: str, protocol: Sweep) -> FeatureSpec:
    make = {"model": pooled_spec, "max": max_spec}[pooling]
    return make(job.extractor, protocol.transform, job.input_px)
