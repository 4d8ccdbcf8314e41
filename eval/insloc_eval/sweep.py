"""Many linear heads trained at once on frozen features: every learning rate x weight decay x pooling, one product a step.

Softmax regression by SGD with momentum from zero weights (the loss is convex: the start is no choice), one order of the
rows for all heads, cosine schedule to 0; features standardised with training statistics, so that a learning rate means
the same for every network. Weights lie as [p, d + 1, h * c] with the bias as last row, so that the scores of all heads of
a pooling are one matrix product; gradients are written out. Poolings of fewer dimensions are padded with zeros, whose
weights stay zero. The learning rate is scaled by rows a step / 256, and the number of rows seen is the protocol's,
whatever the machine.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from insloc_eval.features import one_thread_each
from insloc_eval.logistic import SMALL, standardise
from insloc_eval.protocols.linear import Sweep
from insloc_hub.errors import NotFinite
from insloc_hub.progress import track
from insloc_hub.shapes import Bool, Float, Int

SCALED_TO = 256  # rows a step that a learning rate is stated for


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """One head at one moment of its training."""

    pooling: str
    learning_rate: float
    """Stated for 256 rows a step."""
    weight_decay: float
    step: int
    """Steps done."""

    def __str__(self) -> str:
        return f"{self.pooling}, lr {self.learning_rate:g}, weight decay {self.weight_decay:g}, step {self.step}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A head with its scores of the test rows."""

    head: Head
    accuracy: float
    """Top-1 on the rows that chose it."""
    scores: Float[Tensor, "m c"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepAnswer:
    """What the sweep says, three ways; only `chosen` is a result."""

    chosen: Choice
    """Head and moment with the best top-1 on held-out training rows, ties to the smaller loss there."""
    last: Choice
    """The head chosen likewise at the last step."""
    best_on_test: Choice | None
    """Head and moment best on the reported split: what picking there would claim. None without test labels."""
    heads: int


def sweep(
    train: dict[str, Float[Tensor, "n _"]],
    labels: Int[Tensor, " n"],
    out: Bool[Tensor, " n"],
    test: dict[str, Float[Tensor, "m _"]],
    test_labels: Int[Tensor, " m"] | None,
    classes: int,
    protocol: Sweep,
    seed: int = 0,
    label: str = "heads",
) -> SweepAnswer:
    """Train all heads on the rows not held `out`, choose on those held out. Dicts: pooling -> features.

    `test_labels` are used for `best_on_test` alone. NotFinite: features with a NaN or an infinity. At least one row must
    be held out and one not.
    """
    for values in (*train.values(), *test.values()):
        if not bool(torch.isfinite(values).all()):
            raise NotFinite("features hold a NaN or an infinity; look at the model's weights and at the images")
    known, held, tested = _stacked(train, test, out)
    products = known[:, : protocol.batch].numel() * len(grid(protocol)) * classes
    with one_thread_each() if products < SMALL else nullcontext():
        return _choose(known, held, tested, labels, out, test_labels, classes, protocol, seed, label)


def train_heads(
    rows: Float[Tensor, "p n d1"], labels: Int[Tensor, " n"], classes: int, protocol: Sweep, seed: int, label: str = "heads"
) -> Iterator[tuple[int, Float[Tensor, "p d1 hc"]]]:
    """Yield (steps done, weights) at each check of the protocol; `rows` end in a column of ones."""
    heads = grid(protocol)
    batch = min(protocol.batch, rows.shape[1])
    steps = steps_of(rows.shape[1], protocol)
    checks = {math.ceil(steps * (number + 1) / protocol.checks) for number in range(protocol.checks)}
    scale = batch / SCALED_TO
    rates = _per_column([rate * scale for rate, _ in heads], classes, rows)
    decays = _per_column([decay for _, decay in heads], classes, rows)
    weights = rows.new_zeros(len(rows), rows.shape[2], len(heads) * classes)
    velocity, slope = torch.zeros_like(weights), torch.empty_like(weights)
    room = rows.new_empty(2, len(rows), batch, weights.shape[2])
    order = batches_of(len(labels), batch, steps, seed)
    with track(label, steps, unit="steps") as progress:
        for step in range(steps):
            at = next(order).to(rows.device)
            gradient_(weights, rows[:, at], labels[at], classes, slope, room)
            slope.addcmul_(weights, decays)
            velocity.mul_(protocol.momentum).add_(slope)
            weights.addcmul_(velocity, rates, value=-cosine(step, steps))
            progress.advance()
            if step + 1 in checks:
                yield step + 1, weights


def gradient_(
    weights: Float[Tensor, "p d1 hc"],
    rows: Float[Tensor, "p b d1"],
    labels: Int[Tensor, " b"],
    classes: int,
    into: Float[Tensor, "p d1 hc"],
    room: Float[Tensor, "two p b hc"],
) -> None:
    """Write the gradient of each head's mean cross-entropy into `into`.

    `room` is overwritten: with 48 heads of 200 classes a fresh tensor costs five times the softmax that goes into it.
    """
    p, b, _ = rows.shape
    scores, error = room[0], room[1].view(p, b, -1, classes)
    torch.bmm(rows, weights, out=scores)
    torch.softmax(scores.view(p, b, -1, classes), dim=3, out=error)
    at = labels.view(1, b, 1, 1).expand(p, b, error.shape[2], 1)
    error.scatter_add_(3, at, error.new_full((), -1.0).expand_as(at))
    torch.bmm(rows.transpose(1, 2).div(b), room[1], out=into)


def grid(protocol: Sweep) -> list[tuple[float, float]]:
    """Learning rate and weight decay of each head of a pooling."""
    return [(rate, decay) for rate in protocol.learning_rates for decay in protocol.weight_decays]


def steps_of(rows: int, protocol: Sweep) -> int:
    """Steps that see `protocol.rows_seen` rows, or `protocol.most_epochs` times all of them if that is less."""
    seen = min(protocol.rows_seen, protocol.most_epochs * rows)
    return max(protocol.checks, seen // min(protocol.batch, rows))


def batches_of(rows: int, batch: int, steps: int, seed: int) -> Iterator[Int[Tensor, " b"]]:
    """Positions of each step: every row once an epoch, in an order drawn anew; an incomplete last batch is not used."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(rows, generator=generator)
        yield order[:batch]
        order = order[batch:]


def cosine(step: int, steps: int) -> float:
    """Share of the learning rate at a step, from 1 to almost 0."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def _choose(
    known: Tensor,
    held: Tensor,
    tested: Tensor,
    labels: Tensor,
    out: Tensor,
    test_labels: Tensor | None,
    classes: int,
    protocol: Sweep,
    seed: int,
    label: str,
) -> SweepAnswer:
    best: dict[str, tuple[tuple[float, float], Choice]] = {}
    steps = steps_of(len(known[0]), protocol)
    for step, weights in train_heads(known, labels[~out], classes, protocol, seed, label):
        for name, rows, truth in (("held out", held, labels[out]), ("test", tested, test_labels)):
            if truth is None:
                continue
            rank, place = best_head(rows, weights, truth, classes)
            if name not in best or rank > best[name][0]:
                best[name] = (rank, _choice(rank, place, weights, tested, classes, protocol, step))
            if name == "held out" and step == steps:
                best["last"] = (rank, _choice(rank, place, weights, tested, classes, protocol, step))
    return SweepAnswer(
        chosen=best["held out"][1],
        last=best["last"][1],
        best_on_test=best["test"][1] if test_labels is not None else None,
        heads=len(protocol.poolings) * len(grid(protocol)),
    )


def _stacked(train: dict[str, Tensor], test: dict[str, Tensor], out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised rows [p n d + 1] to learn from, held out and of the test, padded to one width, with a column of ones."""
    widest = max(values.shape[1] for values in train.values())
    blocks: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for name, values in train.items():
        scale = standardise(values[~out])
        for block, rows in zip(blocks, (values[~out], values[out], test[name]), strict=True):
            block.append(pad(pad(scale(rows), (0, widest - rows.shape[1])), (0, 1), value=1.0))
    known, held, tested = (torch.stack(block) for block in blocks)
    return known, held, tested


def best_head(
    rows: Float[Tensor, "p n d1"], weights: Float[Tensor, "p d1 hc"], labels: Int[Tensor, " n"], classes: int
) -> tuple[tuple[float, float], tuple[int, int]]:
    """(top-1, minus the loss) of the best head, and its pooling and place in the grid; a head that diverged comes last."""
    n = len(labels)
    right = weights.new_zeros(len(rows), weights.shape[2] // classes, dtype=torch.float64)
    loss = torch.zeros_like(right)
    for start in range(0, n, SCALED_TO):  # all heads' scores of all rows at once could fill the memory
        part = labels[start : start + SCALED_TO]
        scores = torch.bmm(rows[:, start : start + SCALED_TO], weights).view(len(rows), len(part), -1, classes)
        right += (scores.argmax(dim=3) == part[None, :, None]).double().sum(dim=1)
        at = part[None, :, None, None].expand(*scores.shape[:3], 1)
        loss += (scores.logsumexp(dim=3) - scores.gather(3, at)[..., 0]).double().sum(dim=1)
    pairs = zip((right / n).flatten().tolist(), (-loss / n).flatten().tolist(), strict=True)
    ranks = [(top1, less) if math.isfinite(less) else (0.0, -math.inf) for top1, less in pairs]
    place = max(range(len(ranks)), key=lambda i: ranks[i])
    return ranks[place], divmod(place, right.shape[1])


def _choice(
    rank: tuple[float, float], place: tuple[int, int], weights: Tensor, tested: Tensor, classes: int, protocol: Sweep, step: int
) -> Choice:
    pooling, number = place
    rate, decay = grid(protocol)[number]
    head = Head(pooling=protocol.poolings[pooling], learning_rate=rate, weight_decay=decay, step=step)
    own = weights[pooling].view(weights.shape[1], -1, classes)[:, number]
    return Choice(head=head, accuracy=rank[0], scores=tested[pooling] @ own)


def _per_column(values: list[float], classes: int, like: Tensor) -> Tensor:
    """[1 1 h * c]: a head's value for each of its columns."""
    return like.new_tensor(values).repeat_interleave(classes).view(1, 1, -1)
