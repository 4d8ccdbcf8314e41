"""The intervals of contracts.md 8 for one arm with one pretraining seed: what the choice of test images does, no more.

The sampling unit is the image (with all its outcomes); two models are compared on the same images. What another
pretraining seed would give is not in any of these numbers, and `ONE_SEED` says so wherever they are printed.
"""

import math
from dataclasses import dataclass

import numpy as np

from insloc_hub.errors import InslocError
from insloc_hub.records import Metric
from insloc_hub.shapes import Float

LEVEL = 0.95
POWER = 0.80
ONE_SEED = (
    "One pretraining seed: the intervals cover the choice of test images only; another seed of the same recipe can "
    "differ by more."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """First minus second on the same images."""

    value: float
    low: float
    high: float
    smallest: float
    """The smallest true difference that a test like this finds in 80 of 100 samples (two-sided 5 %)."""
    n: int

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def share(outcomes: Float[np.ndarray, " n"], unit: str = "share", trials: int = 1) -> Metric:
    """A mean of 0/1 outcomes, or of shares of `trials` 0/1 outcomes an image, with Wilson's interval.

    Wilson's (1927) and not the t interval, since the latter leaves [0, 1] and has no width where all images agree. With
    several trials an image, they are not independent: n is the number of independent trials that would vary as the image
    shares do, p (1 - p) over the variance of their mean (Korn & Graubard 1998), at most n * trials; where all agree, n.

    >>> metric = share(np.array([1.0, 1.0, 1.0, 0.0]))
    >>> round(metric.low, 3), round(metric.high, 3)
    (0.301, 0.954)
    """
    _enough(outcomes)
    n, p = len(outcomes), float(outcomes.mean(dtype=np.float64))
    variance = float(outcomes.var(dtype=np.float64))
    effective = float(n)
    if 0 < p < 1:
        effective = n * (trials if variance * trials <= p * (1 - p) else p * (1 - p) / variance)
    low, high = wilson(p, effective)
    return Metric(value=p, low=low, high=high, unit=unit, n=n)


def mean(outcomes: Float[np.ndarray, " n"], unit: str) -> Metric:
    """A mean of continuous outcomes with its t interval over images."""
    _enough(outcomes)
    half = _t_quantile(len(outcomes) - 1, (1 + LEVEL) / 2) * _standard_error(outcomes)
    value = float(outcomes.mean(dtype=np.float64))
    return Metric(value=value, low=value - half, high=value + half, unit=unit, n=len(outcomes))


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's score interval of a share `p` of `n` trials; it never leaves [0, 1] and never has width zero."""
    z2 = _t_quantile(math.inf, (1 + LEVEL) / 2) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def paired_difference(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> Difference:
    """Mean of first - second over the same images in the same order, with the paired t interval."""
    _enough(first)
    gaps = first.astype(np.float64) - second.astype(np.float64)
    df, error = len(gaps) - 1, _standard_error(gaps)
    value, reach = float(gaps.mean()), _t_quantile(df, (1 + LEVEL) / 2)
    return Difference(
        value=value,
        low=value - reach * error,
        high=value + reach * error,
        smallest=(reach + _t_quantile(df, POWER)) * error,
        n=len(gaps),
    )


def _standard_error(outcomes: Float[np.ndarray, " n"]) -> float:
    return float(outcomes.std(dtype=np.float64, ddof=1)) / math.sqrt(len(outcomes))


def _t_quantile(df: float, at: float) -> float:
    """Quantile of Student's t; of the normal at infinite `df`."""
    from scipy.special import ndtri, stdtrit  # a tenth of scipy.stats' import

    return float(ndtri(at) if math.isinf(df) else stdtrit(df, at))


def _enough(outcomes: Float[np.ndarray, " n"]) -> None:
    if len(outcomes) < 2:
        raise InslocError(f"{len(outcomes)} test images give no interval; at least 2 must be readable")
