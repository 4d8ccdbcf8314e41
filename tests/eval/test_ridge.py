"""Ridge regression: closed form, both forms agree, the penalty is chosen on held-out rows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from insloc_eval.ridge import regress
from insloc_hub.errors import NotFinite

PENALTIES = (1.0, 1e-2, 1e-4)


def quality(values: Tensor, truth: Tensor) -> float:
    return -float((values - truth).square().mean())


def data(n: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    x = torch.randn(n + 20, d, generator=generator) * 3 + 1
    y = x.double() @ torch.randn(d, 2, generator=generator).double() + 5
    y += 0.5 * torch.randn(n + 20, 2, generator=generator).double()
    return x[:n], y[:n], x[n:], y[n:]


@pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 50)])
def test_the_solution_is_the_slow_one_in_both_forms(n: int, d: int) -> None:
    x, y, test, _ = data(n, d)
    found = regress(x, y, torch.zeros(n, dtype=torch.bool), test, [0.01], quality)
    mean, std = x.double().mean(0).numpy(), x.double().std(0, correction=0).numpy()
    z, t = ((one.double().numpy() - mean) / std for one in (x, test))
    centred = y.numpy() - y.numpy().mean(0)
    weights = np.linalg.solve(z.T @ z / n + 0.01 * d * np.eye(d), z.T @ centred / n)
    assert found.values.numpy() == pytest.approx(t @ weights + y.numpy().mean(0), abs=1e-3)
    assert np.isnan(found.quality) and found.penalty == 0.01


@pytest.mark.parametrize(("n", "d"), [(100, 5), (60, 200)])
def test_the_penalty_is_the_best_of_the_held_out_rows(n: int, d: int) -> None:
    x, y, test, _ = data(n, d)
    out = torch.arange(n) % 5 == 0
    found = regress(x, y, out, test, PENALTIES, quality)
    kept = torch.zeros(int((~out).sum()), dtype=torch.bool)
    each = {p: regress(x, y, out, test, [p], quality).quality for p in PENALTIES}
    assert found.quality == max(each.values()) and each[found.penalty] == found.quality
    if d == 5:  # little noise, many rows: the strongest penalty can't win
        assert found.penalty < 1.0
    assert len(kept) == n - int(out.sum())


def test_targets_of_held_out_rows_decide_but_do_not_teach() -> None:
    x, y, test, _ = data(50, 4)
    out = torch.arange(50) < 10
    poisoned = y.clone()
    poisoned[out] = -y[out] * 100
    seen: list[Tensor] = []
    regress(x, poisoned, out, test, [1e-4], lambda values, truth: seen.append(values) or 0.0)
    regress(x, y, out, test, [1e-4], lambda values, truth: seen.append(values) or 0.0)
    assert torch.equal(seen[0], seen[1])


def test_dead_dimensions_and_constant_features_are_harmless() -> None:
    x, y, test, _ = data(40, 4)
    x, test = (torch.cat([one, torch.full((len(one), 1), 7.0)], dim=1) for one in (x, test))
    assert torch.isfinite(regress(x, y, torch.zeros(40, dtype=torch.bool), test, [0.1], quality).values).all()
    flat = regress(torch.ones(40, 3), y, torch.zeros(40, dtype=torch.bool), torch.ones(2, 3), [0.1], quality)
    assert torch.allclose(flat.values, y.mean(0).expand(2, -1))


def test_features_that_are_no_numbers_are_refused() -> None:
    x, y, test, _ = data(40, 4)
    x[3, 1] = float("nan")
    with pytest.raises(NotFinite, match="NaN"):
        regress(x, y, torch.zeros(40, dtype=torch.bool), test, [0.1], quality)
