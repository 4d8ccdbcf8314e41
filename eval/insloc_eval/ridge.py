"""Ridge regression on frozen features, in whichever form is smaller: over dimensions, or over rows (the dual).

Minimises mean squared error + penalty * v * |W|^2, with v the total variance of the standardised features (their number of
live dimensions), so that a penalty means the same for every network. Targets are centred, so the offset is free. Products
are float32, systems float64 and solved by Cholesky; the sums that do not depend on the penalty are made once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from insloc_eval.logistic import standardise
from insloc_hub.errors import NotFinite
from insloc_hub.shapes import Bool, Float


@dataclass(frozen=True, kw_only=True, slots=True)
class Regressed:
    """What a read-out says of the test rows."""

    values: Float[Tensor, "m t"]
    penalty: float
    quality: float
    """Of the held-out rows under this penalty; NaN where nothing was held out."""


def regress(
    train: Float[Tensor, "n d"],
    targets: Float[Tensor, "n t"],
    out: Bool[Tensor, " n"],
    test: Float[Tensor, "m d"],
    penalties: Sequence[float],
    judge: Callable[[Float[Tensor, "k t"], Float[Tensor, "k t"]], float],
) -> Regressed:
    """Choose the penalty on the rows held `out` (the largest `judge` of values and targets), solve on all, and predict.

    Ties go to the stronger penalty; with nothing held out it is the middle of the grid. NotFinite.
    """
    if not bool(torch.isfinite(train).all() and torch.isfinite(test).all()):
        raise NotFinite("features hold a NaN or an infinity; look at the model's weights and at the images")
    order = sorted(penalties, reverse=True)
    scale = standardise(train)
    rows, asked = scale(train), scale(test)
    form = _Dual(rows) if rows.shape[1] > len(rows) else _Primal(rows)
    best, quality = order[len(order) // 2], float("nan")
    if bool(out.any()):
        qualities = [judge(form.predict(~out, targets, penalty, rows[out]), targets[out]) for penalty in order]
        quality = max(qualities)
        best = order[qualities.index(quality)]
    everything = torch.ones_like(out)
    return Regressed(values=form.predict(everything, targets, best, asked), penalty=best, quality=quality)


class _Primal:
    """Normal equations over dimensions."""

    def __init__(self, rows: Float[Tensor, "n d"]) -> None:
        self.rows = rows
        self.variance = float(rows.square().mean(dim=0).sum())
        self._of: tuple[int, Tensor] | None = None

    def predict(self, used: Bool[Tensor, " n"], targets: Tensor, penalty: float, asked: Tensor) -> Tensor:
        rows, wanted = self.rows[used], targets[used].double()
        mean = wanted.mean(dim=0)
        if self._of is None or self._of[0] != len(rows):
            self._of = (len(rows), (rows.T @ rows).double() / len(rows))
        system = self._of[1].clone()
        system.diagonal().add_(penalty * max(self.variance, 1e-12))
        right = (rows.T @ (wanted - mean).float()).double() / len(rows)
        weights = torch.cholesky_solve(right, torch.linalg.cholesky(system))
        return (asked @ weights.float()).double() + mean


class _Dual:
    """The same over rows: one Gram matrix of all of them, of which every fit takes its part."""

    def __init__(self, rows: Float[Tensor, "n d"]) -> None:
        self.rows = rows
        self.variance = float(rows.square().mean(dim=0).sum())
        self.gram = (rows @ rows.T).double()

    def predict(self, used: Bool[Tensor, " n"], targets: Tensor, penalty: float, asked: Tensor) -> Tensor:
        wanted = targets[used].double()
        n, mean = len(wanted), wanted.mean(dim=0)
        system = self.gram if bool(used.all()) else self.gram[used][:, used]
        system = system / n
        system.diagonal().add_(penalty * max(self.variance, 1e-12))
        weights = torch.cholesky_solve(wanted - mean, torch.linalg.cholesky(system)) / n
        return ((asked @ self.rows[used].T) @ weights.float()).double() + mean
