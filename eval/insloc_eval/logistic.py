"""Multinomial logistic regression on frozen features: full batch, L-BFGS with strong Wolfe, the same answer each time.

Minimises mean cross-entropy + penalty / 2 * |W|^2 over weights W [c d] and free biases. The search runs along the
principal axes of the features, each scaled by the curvature that the loss has there (the bound of Boehning 1992, Ann.
Inst. Stat. Math. 44, with the mean of p (1 - p) for its 1/2): correlated features would otherwise cost ten times the
steps. Products are float32, sums and the optimiser's state float64.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from insloc_eval.features import one_thread_each
from insloc_eval.protocols import ReadOut
from insloc_hub.errors import NotFinite
from insloc_hub.shapes import Bool, Float, Int

HISTORY = 20  # pairs that L-BFGS keeps
SMALL = 2 * 10**9  # products a step (10,000 rows x 512 x 200 classes have half): below it two threads gained nothing
SMALLEST_STEP = 1e-9  # of the loss, which is of order 1: below it float32 products only shake


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Shift and scale of each dimension, from training features."""

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    """1 where a dimension never varies."""

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Standardised features."""
        return (features - self.mean) / self.std


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A solution, and how well it solves."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    loss: float
    """Mean cross-entropy plus penalty."""
    gradient: float
    """Largest absolute entry of the scaled gradient at the end."""
    steps: int

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits, float32."""
        return features @ self.weight.float().T + self.bias.float()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a read-out says of the test rows."""

    scores: Float[Tensor, "n c"]
    notes: tuple[str, ...]
    """The penalty, and what is odd about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What the held-out rows say of each penalty."""

    penalty: float
    accuracy: dict[float, float]
    """Penalty -> held-out top-1; empty where there was nothing to hold out."""


def standardise(features: Float[Tensor, "n d"]) -> Scale:
    """The scale that gives `features` mean 0 and variance 1, dimension by dimension."""
    wide = features.double()
    std = wide.std(dim=0, correction=0)
    # A dimension whose spread is rounding noise of its level carries nothing: scaled up, it would be noise of size one.
    dead = std <= 1e-6 * wide.abs().amax(dim=0).clamp(min=1e-30)
    return Scale(mean=wide.mean(dim=0).float(), std=torch.where(dead, torch.ones_like(std), std).float())


def fit(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    penalty: float,
    most_steps: int,
    tolerance: float,
) -> Fit:
    """Solve for one penalty. NotFinite: features with a NaN or an infinity."""
    return fit_grid(features, labels, classes, [penalty], most_steps, tolerance)[penalty]


def fit_grid(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    penalties: Sequence[float],
    most_steps: int,
    tolerance: float,
) -> dict[float, Fit]:
    """Solve for each penalty, from the strongest to the weakest, each from the last one's solution. NotFinite."""
    if not bool(torch.isfinite(features).all()):
        raise NotFinite("features hold a NaN or an infinity; look at the model's weights and at the images")
    with one_thread_each() if features.numel() * classes < SMALL else nullcontext():
        return _solve_grid(features, labels, classes, penalties, most_steps, tolerance)


def loss_and_gradient(
    weight: Float[Tensor, "c d"],
    bias: Float[Tensor, " c"],
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    penalty: float,
) -> tuple[Tensor, Float[Tensor, "c d1"]]:
    """Value, and gradient with the bias as last column, written out: half the cost of autograd."""
    n = len(features)
    log_p = torch.addmm(bias.float(), features, weight.float().T).log_softmax(dim=1)
    picked = log_p.gather(1, labels[:, None])
    loss = -picked.sum(dtype=torch.float64) / n + penalty / 2 * weight.square().sum()
    error = log_p.exp_()
    error.scatter_add_(1, labels[:, None], -torch.ones_like(picked))
    slope = (error.T @ features).double() / n + penalty * weight
    return loss, torch.cat([slope, error.sum(dim=0, dtype=torch.float64)[:, None] / n], dim=1)


def _solve_grid(
    features: Tensor, labels: Tensor, classes: int, penalties: Sequence[float], most_steps: int, tolerance: float
) -> dict[float, Fit]:
    n, d = features.shape
    spread, axes = torch.linalg.eigh((features.T @ features).double() / n)
    turned = features @ axes.float()
    weight = torch.zeros(classes, d, dtype=torch.float64, device=features.device)
    bias = weight.new_zeros(classes)
    fits = {}
    for penalty in sorted(penalties, reverse=True):
        p = (turned @ weight.float().T + bias.float()).softmax(dim=1)
        curvature = float((p * (1 - p)).mean(dtype=torch.float64).clamp(min=1e-6))
        scale = torch.cat([(curvature * spread.clamp(min=0) + penalty).rsqrt(), spread.new_tensor([curvature]).rsqrt()])
        theta = torch.cat([weight, bias[:, None]], dim=1) / scale
        theta, loss, gradient, steps = _minimise(theta, scale, turned, labels, penalty, most_steps, tolerance)
        weight, bias = (theta * scale)[:, :d], (theta * scale)[:, d]
        fits[penalty] = Fit(weight=weight @ axes.T, bias=bias, loss=loss, gradient=gradient, steps=steps)
    return fits


def _minimise(
    start: Tensor, scale: Tensor, features: Tensor, labels: Tensor, penalty: float, most_steps: int, tolerance: float
) -> tuple[Tensor, float, float, int]:
    """Scaled parameters [c d+1] at the minimum, the loss, the largest absolute scaled gradient, the steps."""
    theta = start.clone().requires_grad_(True)
    solver = torch.optim.LBFGS(
        [theta],
        max_iter=most_steps,
        history_size=HISTORY,
        tolerance_grad=tolerance,
        tolerance_change=SMALLEST_STEP,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        full = theta * scale
        loss, gradient = loss_and_gradient(full[:, :-1], full[:, -1], features, labels, penalty)
        theta.grad = gradient * scale
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    loss = float(closure())
    assert theta.grad is not None
    return theta.detach(), loss, float(theta.grad.abs().max()), int(solver.state[theta]["n_iter"])


def choose_penalty(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    out: Bool[Tensor, " n"],
    classes: int,
    penalties: Sequence[float],
    most_steps: int,
    tolerance: float,
) -> Chosen:
    """The penalty with the best top-1 on the rows held `out`; ties to the smaller held-out loss.

    With nothing held out it is the middle of the grid.
    """
    order = sorted(penalties, reverse=True)
    if not bool(out.any()):
        return Chosen(penalty=order[len(order) // 2], accuracy={})
    scale = standardise(features[~out])
    known, held = scale(features[~out]), scale(features[out])
    fits = fit_grid(known, labels[~out], classes, penalties, most_steps, tolerance)
    accuracy: dict[float, float] = {}
    rank: dict[float, tuple[float, float]] = {}
    for penalty in order:
        scores = fits[penalty].scores(held)
        accuracy[penalty] = float((scores.argmax(dim=1) == labels[out]).double().mean())
        rank[penalty] = (accuracy[penalty], -float(cross_entropy(scores.double(), labels[out])))
    return Chosen(penalty=max(order, key=lambda penalty: rank[penalty]), accuracy=accuracy)


def read_out(
    train: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    out: Bool[Tensor, " n"],
    test: Float[Tensor, "m d"],
    classes: int,
    protocol: ReadOut,
) -> Answer:
    """Standardise, choose the penalty on the rows held `out`, solve on all rows, score the test rows."""
    limits = (protocol.most_steps, protocol.tolerance)
    chosen = choose_penalty(train, labels, out, classes, protocol.penalties, *limits)
    scale = standardise(train)
    final = fit(scale(train), labels, classes, chosen.penalty, *limits)
    return Answer(scores=final.scores(scale(test)), notes=tuple(_remarks(chosen, final, int(out.sum()), protocol)))


def _remarks(chosen: Chosen, final: Fit, held: int, protocol: ReadOut) -> list[str]:
    grid = sorted(protocol.penalties)
    if not chosen.accuracy:
        return [f"L2 penalty {chosen.penalty:g}, the middle of the grid: too few training images to hold some out"]
    text = f"L2 penalty {chosen.penalty:g}: top-1 {chosen.accuracy[chosen.penalty]:.3f} on {held} held-out training rows"
    if chosen.penalty in (grid[0], grid[-1]):
        text += f"; it is the {'weakest' if chosen.penalty == grid[0] else 'strongest'} of the grid"
    if final.steps >= protocol.most_steps:
        text += f"; stopped at {final.steps} steps with a scaled gradient of {final.gradient:.1e}"
    return [text]
