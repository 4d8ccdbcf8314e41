"""linear/moco: MoCo's linear classification. One head on augmented images, SGD with a huge learning rate, 100 epochs.

Images are decoded again each epoch and cropped anew, so that nothing is cached: with many images it wants a GPU. The
trunk stays in eval mode without gradients and is hashed again at the end: a BatchNorm that went on learning has spoiled a
published evaluation (field.md 2.1). Source: facebookresearch/moco@132aea9, main_lincls.py, as field.md 2.1 has it.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from insloc_eval.features import FeatureTable, batches, check_finite, check_frozen, decoded, reason
from insloc_eval.job import Job
from insloc_eval.protocols.linear import Moco
from insloc_eval.sets import key_hash
from insloc_eval.stats import share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.tasks.linear import blind_rows, counts_of, labels_of, need_images, ranked
from insloc_hub.data.folder import Sample
from insloc_hub.data.transform import InputFacts, normalise, resize
from insloc_hub.errors import BadImage, NotFinite
from insloc_hub.progress import track
from insloc_hub.shapes import Float, UInt8

Head = tuple[Tensor, Tensor]
"""Weight [c d] and bias [c]."""


def run(job: Job) -> Judged:
    """Top-1 and top-5 of the test images after the last epoch; the epoch that is best on them stands beside."""
    protocol = job.protocol
    assert isinstance(protocol, Moco)
    test = _features(job, job.split.test.samples, None, "test features")
    truth = labels_of(job.split.test, test)
    classes = len(job.split.train.classes)
    head: Head | None = None
    velocity: list[Tensor] = []
    best: tuple[float, Tensor] | None = None
    scores = torch.zeros(0)
    train = test
    for epoch in range(protocol.epochs):
        train = _features(job, _shuffled(job, epoch), epoch, f"epoch {epoch + 1} of {protocol.epochs}")
        need_images(job, train, test)
        labels = labels_of(job.split.train, train)
        if head is None:
            head = new_head(classes, train.values.shape[1], protocol, job.seed)
            velocity = [torch.zeros_like(part) for part in head]
        learn(head, velocity, train.values, labels, learning_rate(epoch, protocol), protocol)
        scores = test.values @ head[0].T + head[1]
        if not bool(torch.isfinite(scores).all()):
            raise NotFinite(
                f"the head diverged in epoch {epoch + 1}: a learning rate of 30 is made for features of MoCo's size"
            )
        accuracy = float((scores.argmax(dim=1) == truth).double().mean())
        best = (accuracy, scores) if best is None or accuracy > best[0] else best
    assert best is not None
    learnt = len(set(labels.tolist()))
    outcomes = ranked(scores, truth, protocol.top, learnt)
    outcomes |= {f"{name}_best_on_val": v for name, v in ranked(best[1], truth, protocol.top, learnt).items()}
    counts, notes = counts_of(train, test)
    result = job.result(
        metrics={name: share(values) for name, values in outcomes.items()},
        rows=blind_rows(labels, truth, protocol.top, learnt),
        counts={**counts, "classes": learnt, "epochs": protocol.epochs},
        notes=("..._best_on_val picks the epoch on the reported images: no result, though it is what MoCo reports", *notes),
    )
    return Judged(result=result, outcomes=outcomes_of(test.keys, **outcomes))


def learning_rate(epoch: int, protocol: Moco) -> float:
    """Of one epoch: a tenth after each drop.

    >>> from insloc_eval.protocols.linear import LINEAR_MOCO
    >>> [round(learning_rate(epoch, LINEAR_MOCO), 3) for epoch in (59, 60, 80)]
    [30.0, 3.0, 0.3]
    """
    return protocol.learning_rate * 0.1 ** sum(epoch >= drop for drop in protocol.drops)


def new_head(classes: int, width: int, protocol: Moco, seed: int) -> Head:
    """Normal weights and no bias."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, width, generator=generator) * protocol.init_std, torch.zeros(classes)


def learn(
    head: Head, velocity: list[Tensor], features: Float[Tensor, "n d"], labels: Tensor, rate: float, protocol: Moco
) -> None:
    """One epoch of SGD with momentum over the rows in their order, in place."""
    for rows, truth in zip(torch.split(features, protocol.batch), torch.split(labels, protocol.batch), strict=True):
        live = [part.requires_grad_(True) for part in head]
        slopes = torch.autograd.grad(cross_entropy(rows @ live[0].T + live[1], truth), live)
        for part, speed, slope in zip(live, velocity, slopes, strict=True):
            part.requires_grad_(False)
            speed.mul_(protocol.momentum).add_(slope + protocol.weight_decay * part)
            part.sub_(speed, alpha=rate)


def train_view(
    image: UInt8[Tensor, "3 h w"], side: int, protocol: Moco, facts: InputFacts, draw: np.random.Generator
) -> Float[Tensor, "3 s s"]:
    """A crop of random area, aspect and place, resized to `side`, perhaps flipped (torchvision's RandomResizedCrop)."""
    h, w = image.shape[1:]
    x, y, cw, ch = _draw_crop(h, w, protocol, draw)
    view = resize(image[:, y : y + ch, x : x + cw], (side, side))
    return normalise(view.flip(2) if draw.random() < protocol.flip else view, facts)


def centre_view(image: UInt8[Tensor, "3 h w"], side: int, protocol: Moco, facts: InputFacts) -> Float[Tensor, "3 s s"]:
    """Short side to `resize` times `side`, aspect kept, centre crop."""
    h, w = image.shape[1:]
    short = round(side * protocol.resize)
    hh, ww = (short, max(short, round(w * short / h))) if h <= w else (max(short, round(h * short / w)), short)
    y, x = (hh - side) // 2, (ww - side) // 2
    return normalise(resize(image, (hh, ww))[:, y : y + side, x : x + side], facts)


def _draw_crop(h: int, w: int, protocol: Moco, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """x, y, width, height; after ten tries the largest centred crop of an allowed aspect."""
    low, high = protocol.crop_aspect
    for _ in range(10):
        area = h * w * draw.uniform(*protocol.crop_area)
        aspect = math.exp(draw.uniform(math.log(low), math.log(high)))
        cw, ch = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < cw <= w and 0 < ch <= h:
            return int(draw.integers(0, w - cw + 1)), int(draw.integers(0, h - ch + 1)), cw, ch
    cw, ch = (w, max(1, round(w / low))) if w / h < low else (max(1, round(h * high)), h) if w / h > high else (w, h)
    return (w - cw) // 2, (h - ch) // 2, cw, ch


def _features(job: Job, samples: Sequence[Sample], epoch: int | None, label: str) -> FeatureTable:
    """Pooled vectors of augmented views of one epoch, or of test views."""
    protocol, extractor = job.protocol, job.extractor
    assert isinstance(protocol, Moco)
    side, keys, blocks = job.input_px, [], []
    skipped: dict[str, str] = {}

    def shape(sample: Sample, image: Tensor) -> Tensor:
        if epoch is None:
            return centre_view(image, side, protocol, extractor.facts)
        draw = np.random.default_rng([job.seed, epoch, int(key_hash(sample.key)[:12], 16)])
        return train_view(image, side, protocol, extractor.facts, draw)

    with track(f"{job.shown}: {label}", len(samples)) as progress:
        for batch in batches(decoded(samples, lambda image: image)):
            good = [(sample, image) for sample, image in batch if isinstance(image, Tensor)]
            skipped |= {sample.key: reason(sample, error) for sample, error in batch if isinstance(error, BadImage)}
            if good:
                inputs = torch.stack([shape(sample, image) for sample, image in good])
                values = extractor.forward(inputs, [], pooled=True).pooled
                assert values is not None
                check_finite(extractor, values, [sample.key for sample, _ in good])
                keys += [sample.key for sample, _ in good]
                blocks.append(values.cpu())
            progress.advance(len(batch))
    check_frozen(extractor)
    return FeatureTable(keys=tuple(keys), values=torch.cat(blocks) if blocks else torch.zeros(0, 1), skipped=skipped)


def _shuffled(job: Job, epoch: int) -> list[Sample]:
    samples = job.split.train.samples
    order = np.random.default_rng([job.seed, epoch]).permutation(len(samples))
    return [samples[i] for i in order]
