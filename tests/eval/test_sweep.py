"""The sweep: its heads are those that would be trained one by one, and the reported split chooses nothing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from insloc_eval.features import one_thread_each
from insloc_eval.logistic import standardise
from insloc_eval.protocols.linear import LINEAR_SWEEP
from insloc_eval.sweep import batches_of, best_head, cosine, grid, steps_of, sweep, train_heads
from insloc_hub.errors import NotFinite

CLASSES = 5
SMALL = replace(LINEAR_SWEEP, batch=32, rows_seen=1200, checks=3, learning_rates=(0.01, 1.0), weight_decays=(0.0, 5e-3))


def problem(n: int = 150, seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Two poolings of different widths that hold the class in part; a tenth held out."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    centres = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(99))
    values = centres[labels] + 1.5 * torch.randn(n, 12, generator=generator)
    return {"model": values, "max": 3 * values[:, :7] + 5}, labels, torch.arange(n) % 10 == 3


def one_by_one(features: Tensor, labels: Tensor, rate: float, decay: float, seed: int) -> nn.Linear:
    """One head the ordinary way: nn.Linear, SGD, cosine."""
    head = nn.Linear(features.shape[1], CLASSES)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    steps = steps_of(len(labels), SMALL)
    solver = torch.optim.SGD(head.parameters(), lr=rate * SMALL.batch / 256, momentum=SMALL.momentum, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(solver, lambda step: cosine(step, steps))
    for at in batches_of(len(labels), SMALL.batch, steps, seed):
        solver.zero_grad()
        cross_entropy(head(features[at]), labels[at]).backward()
        solver.step()
        schedule.step()
    return head


def test_all_heads_equal_heads_that_are_trained_one_by_one() -> None:
    with one_thread_each():  # so small that two only wait for each other
        values, labels, out = problem()
        scaled = [standardise(v[~out])(v[~out]) for v in values.values()]
        rows = torch.stack([pad(pad(v, (0, 12 - v.shape[1])), (0, 1), value=1.0) for v in scaled])
        *_, (step, weights) = train_heads(rows, labels[~out], CLASSES, SMALL, seed=4)
        assert step == steps_of(len(scaled[0]), SMALL) == 1200 // 32
        for place, features in enumerate(scaled):
            for number, (rate, decay) in enumerate(grid(SMALL)):
                alone = one_by_one(features, labels[~out], rate, decay, seed=4)
                ours = weights[place, :, number * CLASSES : (number + 1) * CLASSES].T
                width = features.shape[1]
                assert torch.allclose(ours[:, :width], alone.weight, atol=1e-4)
                assert torch.allclose(ours[:, -1], alone.bias, atol=1e-4)
                assert (ours[:, width:-1] == 0).all()  # the padding


def test_the_protocol_has_at_least_48_heads() -> None:
    assert len(grid(LINEAR_SWEEP)) * len(LINEAR_SWEEP.poolings) >= 48


def test_the_best_head_is_the_one_that_a_loop_finds() -> None:
    values, labels, out = problem(n=300)
    rows = torch.stack([pad(values["model"], (0, 1), value=1.0)])
    *_, (_, weights) = train_heads(rows[:, ~out], labels[~out], CLASSES, SMALL, seed=0)
    held = rows[:, out]
    ranks = []
    for number in range(len(grid(SMALL))):
        scores = held[0] @ weights[0, :, number * CLASSES : (number + 1) * CLASSES]
        right = (scores.argmax(dim=1) == labels[out]).double().mean()
        ranks.append((float(right), -float(cross_entropy(scores, labels[out]))))
    rank, place = best_head(held, weights, labels[out], CLASSES)
    assert place == (0, ranks.index(max(ranks)))
    assert rank == pytest.approx(max(ranks), abs=1e-5)


def test_the_choice_does_not_change_when_the_labels_of_the_reported_split_are_poisoned() -> None:
    values, labels, out = problem()
    test, truth, _ = problem(n=80, seed=1)
    honest = sweep(values, labels, out, test, truth, CLASSES, SMALL)
    for poison in ((truth + 1) % CLASSES, torch.zeros_like(truth), None):
        again = sweep(values, labels, out, test, poison, CLASSES, SMALL)
        for mine, other in ((honest.chosen, again.chosen), (honest.last, again.last)):
            assert mine.head == other.head and torch.equal(mine.scores, other.scores)
    assert again.best_on_test is None
    poisoned = sweep(values, labels, out, test, (truth + 1) % CLASSES, CLASSES, SMALL)
    assert honest.best_on_test and poisoned.best_on_test
    assert not torch.equal(honest.best_on_test.scores, poisoned.best_on_test.scores)


def test_no_head_learns_from_the_rows_that_choose() -> None:
    values, labels, out = problem()
    test, truth, _ = problem(n=80, seed=1)
    first = sweep(values, labels, out, test, truth, CLASSES, SMALL)
    wrong = torch.where(out, (labels + 2) % CLASSES, labels)
    other = sweep(values, wrong, out, test, truth, CLASSES, SMALL)
    assert first.best_on_test and other.best_on_test
    assert torch.equal(first.best_on_test.scores, other.best_on_test.scores)  # the heads are the same ones
    assert other.chosen.accuracy < first.chosen.accuracy


def test_picking_on_the_reported_split_is_never_worse_there_than_the_choice() -> None:
    values, labels, out = problem()
    test, truth, _ = problem(n=80, seed=1)
    answer = sweep(values, labels, out, test, truth, CLASSES, SMALL)
    assert answer.best_on_test
    right = [float((c.scores.argmax(1) == truth).double().mean()) for c in (answer.best_on_test, answer.chosen, answer.last)]
    assert right[0] == pytest.approx(answer.best_on_test.accuracy) and right[0] >= max(right[1:])
    assert answer.last.head.step == steps_of(int((~out).sum()), SMALL) and right[1] > 0.5


def test_a_head_that_diverged_comes_last() -> None:
    values, labels, _ = problem()
    rows = torch.stack([pad(values["model"], (0, 1), value=1.0)])
    weights = torch.zeros(1, rows.shape[2], 3 * CLASSES)
    weights[0, 0, :CLASSES] = float("nan")
    weights[0, 0, CLASSES] = float("inf")
    (top1, _), place = best_head(rows, weights, labels, CLASSES)
    assert place == (0, 2) and top1 == pytest.approx(1 / CLASSES)


@pytest.mark.parametrize(("rows", "steps"), [(4, 100), (100, 100), (1500, 146), (25_000, 1250), (10**6, 1250)])
def test_the_count_of_rows_seen_is_the_protocols(rows: int, steps: int) -> None:
    """100 epochs of small sets, 1.28 M rows of large ones."""
    assert steps_of(rows, LINEAR_SWEEP) == steps


def test_every_row_is_used_once_an_epoch_and_the_order_is_of_the_seed() -> None:
    drawn = list(batches_of(10, 5, 6, seed=3))
    assert len(list(batches_of(10, 3, 4, seed=3))) == 4  # exactly, in the middle of an epoch too
    assert [sorted(torch.cat(drawn[i : i + 2]).tolist()) for i in (0, 2, 4)] == [list(range(10))] * 3
    assert torch.equal(torch.cat(drawn), torch.cat(list(batches_of(10, 5, 6, seed=3))))
    assert not torch.equal(torch.cat(drawn), torch.cat(list(batches_of(10, 5, 6, seed=4))))


def test_features_that_are_no_numbers_are_refused() -> None:
    values, labels, out = problem()
    values["max"][3, 2] = float("nan")
    with pytest.raises(NotFinite, match="NaN"):
        sweep(values, labels, out, values, None, CLASSES, SMALL)
