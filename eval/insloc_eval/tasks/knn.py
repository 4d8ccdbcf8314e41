"""knn/dino: class labels from the nearest training images, by frozen whole-image vectors. DINO's vote (field.md 2.2)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from insloc_eval.cache import cached
from insloc_eval.features import pooled_spec
from insloc_eval.job import Job
from insloc_eval.protocols.linear import Knn
from insloc_eval.stats import share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.tasks.linear import blind_rows, counts_of, labels_of, need_images, ranked
from insloc_hub.shapes import Float, Int

AT_ONCE = 512  # test rows: all similarities at once could fill the memory


def run(job: Job) -> Judged:
    """Top-1 and top-5 by the protocol's first k; top-1 by the others beside, as far as there are that many images."""
    protocol = job.protocol
    assert isinstance(protocol, Knn)
    spec = pooled_spec(job.extractor, protocol.transform, job.input_px)
    train = cached(job.extractor, job.split.train, spec, job.cache, f"{job.shown}: training features")
    test = cached(job.extractor, job.split.test, spec, job.cache, f"{job.shown}: test features")
    need_images(job, train, test)
    labels, truth = labels_of(job.split.train, train), labels_of(job.split.test, test)
    classes, learnt = len(job.split.train.classes), len(set(labels.tolist()))
    first, *others = protocol.k
    votes = nearest_votes(train.values, labels, test.values, classes, protocol.k, protocol.temperature)
    outcomes = ranked(votes[first], truth, protocol.top, learnt)
    for k in (k for k in others if k <= len(labels)):
        outcomes[f"top1_k{k}"] = ranked(votes[k], truth, protocol.top, learnt)["top1"]
    counts, notes = counts_of(train, test)
    few = (f"k {first} means all {len(labels)} training images",) if first > len(labels) else ()
    result = job.result(
        metrics={name: share(values) for name, values in outcomes.items()},
        rows=blind_rows(labels, truth, protocol.top, learnt),
        counts={**counts, "classes": learnt, "k": first},
        notes=(*few, f"k {first}, temperature {protocol.temperature:g}, {protocol.normalise} norm, whole image", *notes),
    )
    return Judged(result=result, outcomes=outcomes_of(test.keys, **outcomes))


def nearest_votes(
    train: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    classes: int,
    ks: tuple[int, ...],
    temperature: float,
) -> dict[int, Float[Tensor, "m c"]]:
    """k -> sum over the k nearest training rows of exp(cosine / temperature), class by class."""
    known, most = normalize(train, dim=1), min(max(ks), len(train))
    blocks: dict[int, list[Tensor]] = {k: [] for k in ks}
    for rows in torch.split(normalize(test, dim=1), AT_ONCE):
        near, at = (rows @ known.T).topk(most, dim=1)
        # Less the best: the votes keep their proportions and can't overflow.
        weights = ((near - near[:, :1]) / temperature).exp()
        voted = one_hot(labels[at], classes) * weights[:, :, None]
        for k in ks:
            blocks[k].append(voted[:, :k].sum(dim=1))
    return {k: torch.cat(block) for k, block in blocks.items()}
