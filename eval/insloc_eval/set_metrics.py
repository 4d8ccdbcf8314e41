"""Intervals of numbers that are no mean over images (AP): the image part by bootstrap of images (contracts.md 8).

Both arms see the same drawn images in each repeat, so that what is hard for both cancels. Seeds enter as everywhere else
(insloc_eval/stats.py); their residual against the images is what a repeat changes in one seed's number but not in the
mean of its arm.
"""

from collections.abc import Callable, Sequence

import numpy as np

from insloc_eval.stats import Difference, Part, SeedPart, combine, difference_of
from insloc_hub.errors import InslocError
from insloc_hub.records import Metric
from insloc_hub.shapes import Float

REPEATS = 1000

Score = Callable[[np.ndarray], float]
"""Positions of images, some of them several times -> the metric of one model on these."""


def set_metric(seeds: Sequence[Score], images: int, unit: str, *, repeats: int = REPEATS, seed: int = 0) -> Metric:
    """One arm: the mean of its seeds' numbers on all images, with its interval."""
    whole, drawn = _scores(seeds, images, repeats, seed)
    parts = _seed_parts(whole, drawn, images) if len(seeds) > 1 else []
    spread = combine(parts, Part(variance=float(drawn.mean(axis=0).var(ddof=1)), df=images - 1))
    value = float(whole.mean())
    return Metric(value=value, low=value - spread.reach, high=value + spread.reach, unit=unit, n=images)


def set_difference(
    first: Sequence[Score], second: Sequence[Score], images: int, *, repeats: int = REPEATS, seed: int = 0
) -> Difference:
    """Mean of the first arm's seeds - mean of the second's, on the same `images` images."""
    a, drawn_a = _scores(first, images, repeats, seed)
    b, drawn_b = _scores(second, images, repeats, seed)
    known = min(len(first), len(second)) > 1
    parts = [*_seed_parts(a, drawn_a, images), *_seed_parts(b, drawn_b, images)] if known else []
    gaps = drawn_a.mean(axis=0) - drawn_b.mean(axis=0)
    spread = combine(parts, Part(variance=float(gaps.var(ddof=1)), df=images - 1))
    return difference_of(float(a.mean() - b.mean()), spread, images, (len(first), len(second)))


def _scores(
    seeds: Sequence[Score], images: int, repeats: int, seed: int
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, "s r"]]:
    """Each seed's number on all images, and on `repeats` samples of as many images; the same samples for one `seed`."""
    if images < 2:
        raise InslocError(f"{images} test images give no interval; at least 2 must be readable")
    everything = np.arange(images)
    whole = np.array([score(everything) for score in seeds], dtype=np.float64)
    generator = np.random.default_rng(seed)
    samples = [generator.integers(0, images, images) for _ in range(repeats)]
    return whole, np.array([[score(sample) for sample in samples] for score in seeds], dtype=np.float64)


def _seed_parts(whole: Float[np.ndarray, " s"], drawn: Float[np.ndarray, "s r"], images: int) -> list[SeedPart]:
    s = len(whole)
    rest = drawn - drawn.mean(axis=0)
    residual = float(rest.var(axis=1, ddof=1).sum()) / (s - 1) / s
    return [
        SeedPart(
            means=Part(variance=float(whole.var(ddof=1)) / s, df=s - 1),
            residual=Part(variance=residual, df=(s - 1) * (images - 1)),
        )
    ]
