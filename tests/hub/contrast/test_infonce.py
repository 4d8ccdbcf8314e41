"""InfoNCE against its frozen numbers, a closed form and a version with loops."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from insloc_hub.contrast.infonce import infonce

Golden = Callable[[str], dict[str, np.ndarray]]


def unit(*shape: int, seed: int, dim: int = -1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=dim)


def slow_infonce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> tuple[list[float], list[float]]:
    """Level by level, image by image, in plain Python."""
    b, levels, _ = query.shape
    losses, accuracy = [], []
    for level in range(levels):
        total, right = 0.0, 0
        for row in range(b):
            q = query[row, level].tolist()
            positive = sum(x * y for x, y in zip(q, key[row, level].tolist(), strict=True)) / temperature
            slots = queue[level].T.tolist()
            negatives = [sum(x * y for x, y in zip(q, slot, strict=True)) / temperature for slot in slots]
            total += math.log(math.exp(positive) + sum(math.exp(n) for n in negatives)) - positive
            right += positive > max(negatives)
        losses.append(total / b)
        accuracy.append(right / b)
    return losses, accuracy


def test_loss_gradient_and_accuracy_are_the_frozen_ones(golden: Golden) -> None:
    frozen = golden("infonce")
    raw = torch.from_numpy(frozen["q_raw"]).requires_grad_()
    query = normalize(raw, dim=1)
    query.retain_grad()
    key, queue = torch.from_numpy(frozen["k"]), torch.from_numpy(frozen["queue"])
    loss, accuracy = infonce(query[:, None], key[:, None], queue[None], float(frozen["T"]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([float(frozen["loss"])], rel=1e-14)
    assert accuracy.tolist() == pytest.approx([float(frozen["accuracy_percent"]) / 100])
    assert query.grad is not None and raw.grad is not None
    assert np.abs(query.grad.numpy() - frozen["grad_q_unit"]).max() < 1e-15
    assert np.abs(raw.grad.numpy() - frozen["grad_q_raw"]).max() < 1e-15


def test_each_sample_has_its_frozen_loss(golden: Golden) -> None:
    frozen = {name: torch.from_numpy(np.asarray(value)) for name, value in golden("infonce").items()}
    for row in range(8):
        q, k = frozen["q"][row : row + 1, None], frozen["k"][row : row + 1, None]
        loss, _ = infonce(q, k, frozen["queue"][None], float(frozen["T"]))
        assert float(loss) == pytest.approx(float(frozen["loss_per_sample"][row]), rel=1e-14)


def test_levels_are_apart_and_equal_a_loop_in_plain_python() -> None:
    query, key, queue = unit(5, 3, 7, seed=0), unit(5, 3, 7, seed=1), unit(3, 7, 11, seed=2, dim=1)
    key = normalize(query + 0.8 * key, dim=2)
    loss, accuracy = infonce(query, key, queue, 0.2)
    slow_loss, slow_accuracy = slow_infonce(query, key, queue, 0.2)
    assert loss.tolist() == pytest.approx(slow_loss, rel=1e-12)
    assert accuracy.tolist() == pytest.approx(slow_accuracy)
    assert len(set(slow_loss)) == 3 and 0 < sum(slow_accuracy) < 3


@pytest.mark.parametrize("slots", [1, 8, 1000])
def test_a_queue_that_looks_like_the_positive_costs_log_of_one_more(slots: int) -> None:
    same = unit(1, 1, 16, seed=0)
    loss, accuracy = infonce(same.expand(4, 1, 16), same.expand(4, 1, 16), same[0, 0][None, :, None].expand(1, 16, slots), 0.2)
    assert loss.tolist() == pytest.approx([math.log(slots + 1)], rel=1e-12)
    assert accuracy.tolist() == [0]  # a tie is no recognition


def test_a_positive_that_is_opposite_to_all_negatives_costs_the_closed_form() -> None:
    q = unit(1, 1, 16, seed=0)
    loss, accuracy = infonce(q, q, -q[0, 0][None, :, None].expand(1, 16, 9), 0.2)
    assert float(loss) == pytest.approx(math.log1p(9 * math.exp(-2 / 0.2)), rel=1e-9)
    assert accuracy.tolist() == [1]


def test_a_cold_temperature_does_not_overflow() -> None:
    q = unit(2, 1, 16, seed=0).float()
    loss, _ = infonce(q, -q, q[0, 0][None, :, None].expand(1, 16, 9).contiguous(), 1e-3)
    assert torch.isfinite(loss).all() and float(loss) > 500


def test_keys_and_queries_are_not_interchangeable() -> None:
    query, key, queue = unit(4, 1, 8, seed=0), unit(4, 1, 8, seed=1), unit(1, 8, 6, seed=2, dim=1)
    one, other = infonce(query, key, queue, 0.2)[0], infonce(key, query, queue, 0.2)[0]
    assert abs(float(one) - float(other)) > 1e-3
