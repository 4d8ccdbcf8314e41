"""The solver against scipy on small problems, against closed forms, and the choice of the penalty."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from insloc_eval.logistic import choose_penalty, fit, fit_grid, read_out, standardise
from insloc_eval.protocols import PATCHES_LINEAR
from insloc_hub.errors import NotFinite

STEPS, TOLERANCE = 500, 1e-7


def problem(n: int = 90, d: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator)  # correlated
    return features, torch.randint(classes, (n,), generator=generator)


def slow_loss(theta: np.ndarray, x: np.ndarray, y: np.ndarray, penalty: float, classes: int) -> float:
    full = theta.reshape(classes, -1)
    total = 0.0
    for row, label in zip(x, y, strict=True):
        logits = full[:, :-1] @ row + full[:, -1]
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
    return float(total / len(x) + penalty / 2 * (full[:, :-1] ** 2).sum())


@pytest.mark.parametrize("penalty", [1.0, 0.03])
def test_the_solution_is_that_of_a_slow_reference(penalty: float) -> None:
    x, y = problem(40, 3, 3)
    found = fit(x, y, 3, penalty, STEPS, TOLERANCE)
    arguments = (x.double().numpy(), y.numpy(), penalty, 3)
    known = minimize(slow_loss, np.zeros(12), args=arguments, method="BFGS", options={"gtol": 1e-7})
    assert found.loss == pytest.approx(known.fun, abs=1e-6)
    assert found.weight.numpy() == pytest.approx(known.x.reshape(3, 4)[:, :-1], abs=2e-3)


def test_at_the_solution_the_penalty_balances_the_errors() -> None:
    x, y = problem()
    found = fit(x, y, 4, 0.05, STEPS, TOLERANCE)
    error = found.scores(x).softmax(dim=1).double() - torch.eye(4, dtype=torch.float64)[y]
    assert torch.allclose(0.05 * found.weight, -(error.T @ x.double()) / len(x), atol=1e-4)
    assert error.mean(dim=0).abs().max() < 1e-4  # free biases: mean probabilities are class shares


def test_an_endless_penalty_leaves_the_class_shares() -> None:
    x, y = problem()
    found = fit(x, y, 4, 1e6, STEPS, TOLERANCE)
    assert found.weight.abs().max() < 1e-4
    assert found.scores(x[:1]).softmax(dim=1)[0].tolist() == pytest.approx((y.bincount() / len(y)).tolist(), abs=1e-4)


def test_a_grid_gives_what_each_penalty_gives_alone() -> None:
    x, y = problem()
    grid = fit_grid(x, y, 4, [0.01, 1.0, 0.1], STEPS, TOLERANCE)
    for penalty, found in grid.items():
        assert found.loss == pytest.approx(fit(x, y, 4, penalty, STEPS, TOLERANCE).loss, abs=1e-6)


def test_the_same_problem_gives_the_same_bits() -> None:
    x, y = problem()
    assert torch.equal(fit(x, y, 4, 0.1, STEPS, TOLERANCE).weight, fit(x, y, 4, 0.1, STEPS, TOLERANCE).weight)


def test_standardised_features_have_mean_0_and_variance_1_and_constant_ones_stay_quiet() -> None:
    x, _ = problem()
    x = torch.cat([x * 1000 + 5, torch.full((len(x), 1), 0.1)], dim=1)
    z = standardise(x)(x)
    assert z.mean(dim=0).abs().max() < 1e-5
    assert torch.allclose(z[:, :-1].std(dim=0, correction=0), torch.ones(6), atol=1e-4)
    assert z[:, -1].abs().max() < 1e-6


def test_pure_noise_chooses_a_strong_penalty_and_clean_classes_are_all_found() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(200) % 4
    out = torch.arange(200) % 10 < 3
    noise = torch.randn(200, 50, generator=generator)
    clean = noise + 8 * torch.nn.functional.one_hot(labels, 50)
    grid = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    assert choose_penalty(clean, labels, out, 4, grid, 200, 1e-4).accuracy[0.1] == 1.0
    chosen = choose_penalty(noise, labels, out, 4, grid, 200, 1e-4)
    assert chosen.accuracy[chosen.penalty] == max(chosen.accuracy.values()) < 0.5


def test_with_nothing_held_out_the_middle_of_the_grid_is_taken_and_said() -> None:
    x, y = problem()
    answer = read_out(x, y, torch.zeros(len(x), dtype=torch.bool), x[:5], 4, PATCHES_LINEAR)
    assert "0.01, the middle of the grid" in answer.notes[0]
    assert answer.scores.shape == (5, 4)


def test_a_class_without_training_rows_is_never_the_answer() -> None:
    x, y = problem()
    assert 4 not in fit(x, y, 5, 0.1, STEPS, TOLERANCE).scores(x).argmax(dim=1).tolist()


def test_nan_features_are_refused() -> None:
    x, y = problem()
    x[3, 2] = float("nan")
    with pytest.raises(NotFinite, match="NaN"):
        fit(x, y, 4, 0.1, STEPS, TOLERANCE)
