"""The released optimizer and its learning rate (paper.md A.5)."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from insloc_hub.pretrain.schedule import cosine_by_epoch, make_optimizer
from insloc_hub.recipe import Recipe


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.03), (50, 0.025606601717798213), (100, 0.015), (199, 1.8505e-6)])
def test_the_learning_rate_is_half_a_cosine_over_the_epochs(epoch: int, rate: float) -> None:
    assert cosine_by_epoch(0.03, epoch, 200) == pytest.approx(rate, rel=1e-4)
    assert cosine_by_epoch(0.03, epoch, 200) == pytest.approx(0.015 * (1 + math.cos(math.pi * epoch / 200)), rel=1e-12)


def test_it_falls_at_every_epoch_and_does_not_reach_zero() -> None:
    rates = [cosine_by_epoch(0.03, epoch, 7) for epoch in range(7)]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 7 and rates[-1] > 0


def test_steps_are_nesterovs_with_weight_decay_on_norms_and_biases_too(tiny: Callable[..., Recipe]) -> None:
    """The update written out: g <- g + wd p; v <- m v + g; p <- p - lr (g + m v)."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    optimizer = make_optimizer(encoder, tiny(weight_decay=0.01))
    slow = [(p.detach().clone(), torch.zeros_like(p)) for p in encoder.parameters()]
    for step in range(3):
        gradients = [torch.full_like(p, 0.1 * (step + 1) + i) for i, p in enumerate(encoder.parameters())]
        for p, gradient in zip(encoder.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.05
        optimizer.step()
        for i, gradient in enumerate(gradients):
            value, velocity = slow[i]
            g = gradient + 0.01 * value
            velocity = 0.9 * velocity + g
            slow[i] = (value - 0.05 * (g + 0.9 * velocity), velocity)
    for p, (value, _) in zip(encoder.parameters(), slow, strict=True):
        assert torch.allclose(p, value, atol=1e-12)
