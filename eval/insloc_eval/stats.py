"""The intervals of contracts.md 8: pretraining seeds of two arms are unpaired, test images are paired.

The sampling units are the pretraining seed and the image (with all its outcomes). With one seed an arm, what another
seed would give is in no number, and `ONE_SEED` says so wherever they are printed. Set metrics: set_metrics.py.
"""

import math
from dataclasses import dataclass

import numpy as np

from insloc_hub.errors import InslocError
from insloc_hub.records import Metric
from insloc_hub.shapes import Float

LEVEL = 0.95
POWER = 0.80
Z95 = 1.959964  # normal quantile at .975: half of a large sample's interval in standard errors
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
    """Images."""
    seeds: tuple[int, int]
    """Pretraining seeds of the two arms."""
    seed_sd: float
    """Standard error that the choice of seeds gives; 0 where an arm has one, since it can't be known."""
    image_sd: float
    """Standard error that the choice of images gives."""

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One estimated variance of a mean."""

    variance: float
    df: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPart:
    """What the seeds of one arm say."""

    means: Part
    """Variance of the arm's mean, from the spread of its seeds' means."""
    residual: Part
    """The seed x image residual, which is in `means` and in the image part: counted twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The variance of a value, its degrees of freedom, and the two sources."""

    variance: float
    df: float
    seeds: float
    images: float

    @property
    def reach(self) -> float:
        """Half of the 95 % interval."""
        return _t_quantile(self.df, (1 + LEVEL) / 2) * math.sqrt(self.variance)


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


def over_seeds(outcomes: Float[np.ndarray, "s n"], unit: str) -> Metric:
    """The mean of one arm: seeds x images, with the interval over both. One seed: over images (`mean`)."""
    if len(outcomes) == 1:
        return mean(outcomes[0], unit)
    _enough(outcomes[0])
    wide = outcomes.astype(np.float64)
    spread = combine(_seed_parts(wide), _image_part(wide.mean(axis=0)))
    value, half = float(wide.mean()), spread.reach
    return Metric(value=value, low=value - half, high=value + half, unit=unit, n=wide.shape[1])


def difference(first: Float[np.ndarray, "s n"], second: Float[np.ndarray, "t n"]) -> Difference:
    """Mean of `first` - mean of `second`: rows are pretraining seeds (unpaired), columns the same images (paired).

    With one seed in either arm only the image part can be known: another seed is then not in the interval.
    """
    _enough(first[0])
    a, b = first.astype(np.float64), second.astype(np.float64)
    known = min(len(a), len(b)) > 1
    seeds = [*_seed_parts(a), *_seed_parts(b)] if known else []
    spread = combine(seeds, _image_part(a.mean(axis=0) - b.mean(axis=0)))
    return difference_of(float(a.mean() - b.mean()), spread, a.shape[1], (len(a), len(b)))


def difference_of(value: float, spread: Spread, n: int, seeds: tuple[int, int]) -> Difference:
    """A value with its interval and the smallest difference that its variance would let a test find."""
    return Difference(
        value=value,
        low=value - spread.reach,
        high=value + spread.reach,
        smallest=spread.reach + _t_quantile(spread.df, POWER) * math.sqrt(spread.variance),
        n=n,
        seeds=seeds,
        seed_sd=math.sqrt(spread.seeds),
        image_sd=math.sqrt(spread.images),
    )


def combine(seeds: list[SeedPart], images: Part) -> Spread:
    """Add the parts (contracts.md 8): seeds + images - the residual in both, but at least the larger of the two.

    The degrees of freedom are Satterthwaite's (1946): variance^2 over the sum of part^2 / df.
    """
    of_seeds = sum(one.means.variance for one in seeds)
    twice = sum(one.residual.variance for one in seeds)
    variance = max(of_seeds + images.variance - twice, of_seeds, images.variance)
    parts = [images, *(one.means for one in seeds), *(one.residual for one in seeds)]
    below = sum(part.variance**2 / part.df for part in parts)
    df = variance**2 / below if below > 0 else images.df  # no variance at all: every outcome is the same
    return Spread(variance=variance, df=df, seeds=of_seeds, images=images.variance)


def _seed_parts(outcomes: Float[np.ndarray, "s n"]) -> list[SeedPart]:
    """Of one arm: the variance of its mean from its seeds' means, and the seed x image residual inside it."""
    s, n = outcomes.shape
    rest = outcomes - outcomes.mean(axis=0) - outcomes.mean(axis=1, keepdims=True) + outcomes.mean()
    df = (s - 1) * (n - 1)
    return [
        SeedPart(
            means=Part(variance=float(outcomes.mean(axis=1).var(ddof=1)) / s, df=s - 1),
            residual=Part(variance=float((rest**2).sum()) / df / (s * n), df=df),
        )
    ]


def _image_part(averages: Float[np.ndarray, " n"]) -> Part:
    return Part(variance=float(averages.var(ddof=1)) / len(averages), df=len(averages) - 1)


def _standard_error(outcomes: Float[np.ndarray, " n"]) -> float:
    return float(outcomes.std(dtype=np.float64, ddof=1)) / math.sqrt(len(outcomes))


def _t_quantile(df: float, at: float) -> float:
    """Quantile of Student's t; of the normal at infinite `df`."""
    from scipy.special import ndtri, stdtrit  # a tenth of scipy.stats' import

    return float(ndtri(at) if math.isinf(df) else stdtrit(df, at))


def _enough(outcomes: Float[np.ndarray, " n"]) -> None:
    if len(outcomes) < 2:
        raise InslocError(f"{len(outcomes)} test images give no interval; at least 2 must be readable")
