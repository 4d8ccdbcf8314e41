"""Rates in closed form, who decays, and statistics that are plain means."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from insloc_eval.detection.schedule import make_optimizer, precise_norms, rate_at
from insloc_eval.protocols.detection import COCO_FPN_1X, Detection


def test_the_rate_warms_up_linearly_and_drops_to_a_tenth_twice() -> None:
    """paper.md C: 0.02, from 0.001 of it over 1000 steps; C.2: drops at 60,000 and 80,000."""
    rates = [rate_at(COCO_FPN_1X, step) for step in (0, 500, 1000, 59_999, 60_000, 79_999, 80_000)]
    assert rates == pytest.approx([0.00002, 0.02 * 0.5005, 0.02, 0.02, 0.002, 0.002, 0.0002])


def test_norms_do_not_decay_and_all_else_does(tiny: Callable[..., Detection]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.GroupNorm(1, 2))
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = make_optimizer(net, tiny(lr=1.0, weight_decay=0.5, norm_decay=0.0))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shares = [1.0 if not p.any() else (p / b).mean().item() for p, b in zip(net.parameters(), before, strict=True)]
    assert shares == pytest.approx([0.5, 0.5, 1, 1, 0.5, 0.5, 1, 1])


def test_precise_statistics_are_the_means_over_batches() -> None:
    norm = nn.BatchNorm2d(3)
    batches = list(torch.randn(4, 5, 3, 6, 7, generator=torch.Generator().manual_seed(0)).mul(3).add(1))
    norm(torch.full((5, 3, 6, 7), 99.0))  # forgotten
    precise_norms(nn.Sequential(norm), [partial(norm, batch) for batch in batches])
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(dim=1) for batch in batches]).mean(dim=0)
    assert torch.allclose(norm.running_mean, means, atol=1e-5) and torch.allclose(norm.running_var, variances, rtol=1e-5)
    assert norm.momentum == 0.1
