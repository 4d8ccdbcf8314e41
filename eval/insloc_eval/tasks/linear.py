"""linear/logistic: class labels from the frozen whole-image vector, by logistic regression."""

import numpy as np
import torch

from insloc_eval.cache import cached
from insloc_eval.features import FeatureTable, pooled_spec
from insloc_eval.job import Job
from insloc_eval.logistic import read_out
from insloc_eval.protocols import Linear
from insloc_eval.sets import held_out, unreadable
from insloc_eval.stats import share
from insloc_eval.store import Judged, outcomes_of
from insloc_hub.data.folder import ImageSet
from insloc_hub.errors import BadData


def run(job: Job) -> Judged:
    """Top-1 and top-5 of the test images, and whether each was right."""
    protocol = job.protocol
    assert isinstance(protocol, Linear)
    spec = pooled_spec(job.extractor, protocol.transform, job.input_px)
    train = cached(job.extractor, job.split.train, spec, job.cache, f"{job.shown}: training features")
    test = cached(job.extractor, job.split.test, spec, job.cache, f"{job.shown}: test features")
    need_images(job, train, test)
    labels, truth = labels_of(job.split.train, train), labels_of(job.split.test, test)
    out = torch.tensor(held_out(list(train.keys), list(labels.tolist()), protocol.held_out))
    classes = len(job.split.train.classes)
    answer = read_out(train.values, labels, out, test.values, classes, protocol)
    outcomes = ranked(answer.scores, truth, protocol.top, learnt := len(set(labels.tolist())))
    rows = blind_rows(labels, truth, protocol.top, learnt)
    counts, notes = counts_of(train, test)
    result = job.result(
        metrics={name: share(values) for name, values in outcomes.items()},
        rows=rows,
        counts={**counts, "classes": learnt},
        notes=(*answer.notes, *notes),
    )
    return Judged(result=result, outcomes=outcomes_of(test.keys, **outcomes))


def ranked(scores: torch.Tensor, truth: torch.Tensor, top: int, learnt: int) -> dict[str, np.ndarray]:
    """Whether the label of each row is the best class, and among the `top` best where there are more learnt classes."""
    right = (scores.argsort(dim=1, descending=True, stable=True) == truth[:, None]).cpu().numpy()
    outcomes: dict[str, np.ndarray] = {"top1": right[:, 0].astype(np.float64)}
    if learnt > top:  # among five of five classes is every label
        outcomes[f"top{top}"] = np.asarray(right[:, :top].any(axis=1), dtype=np.float64)
    return outcomes


def blind_rows(labels: torch.Tensor, truth: torch.Tensor, top: int, learnt: int) -> dict[str, dict[str, float]]:
    """What can be reached without looking."""
    rows = {"chance": {"top1": 1 / learnt}, "most common class": {"top1": _commonest(labels, truth)}}
    if learnt > top:
        rows["chance"][f"top{top}"] = top / learnt
    return rows


def labels_of(images: ImageSet, table: FeatureTable) -> torch.Tensor:
    """[n] class numbers of the rows of `table`."""
    label = {sample.key: sample.label for sample in images.samples}
    return torch.tensor([label[key] for key in table.keys], dtype=torch.int64)


def counts_of(train: FeatureTable, test: FeatureTable) -> tuple[dict[str, int], tuple[str, ...]]:
    """What was used and what could not be read."""
    train_counts, train_notes = unreadable(train.skipped, "train")
    test_counts, test_notes = unreadable(test.skipped, "test")
    used = {"train_images": len(train.keys), "test_images": len(test.keys)}
    return {**used, **train_counts, **test_counts}, (*train_notes, *test_notes)


def need_images(job: Job, train: FeatureTable, test: FeatureTable) -> None:
    """BadData: a half of which too few images can be read."""
    for half, images, table in (("training", job.split.train, train), ("test", job.split.test, test)):
        if len(table.keys) < 2:
            first = next(iter(table.skipped.items()), ("", ""))
            problem = f"only {len(table.keys)} of {len(images)} {half} images can be read; e.g. {first[0]}: {first[1]}"
            raise BadData(images.root, problem)


def _commonest(labels: torch.Tensor, truth: torch.Tensor) -> float:
    """Top-1 of always answering the most common training class."""
    return float((truth == labels.bincount().argmax()).double().mean())
