"""Intervals of numbers that are no mean over images (AP): the image part by bootstrap of images (contracts.md 8).

Both arms see the same drawn images in each repeat, so that what is hard for both cancels. Seeds enter as everywhere else
(insloc_eval/stats.py); their residual against the images is what a repeat changes in one seed's number but not in the
mean of its arm. A repeat that misses what is asked (no small object was drawn) has NaN, and is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from insloc_eval.stats import Difference, Part, SeedPart, combine, difference_of
from insloc_hub.errors import InslocError
from insloc_hub.records import Metric
from insloc_hub.shapes import Float, Int

REPEATS = 1000

Score = Callable[[np.ndarray], np.ndarray]
"""How often each image stands in each sample, int [r i] -> the number of one model on each sample, [r]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """The number of one model."""

    whole: float
    """On all images."""
    drawn: Float[np.ndarray, " r"]
    """On each sample of as many images."""


def samples(images: int, repeats: int = REPEATS, seed: int = 0) -> Int[np.ndarray, "r i"]:
    """How often each image stands in each of `repeats` samples; the same for one `seed`. InslocError: fewer than 2."""
    if images < 2:
        raise InslocError(f"{images} test images give no interval; at least 2 must be readable")
    generator = np.random.default_rng(seed)
    return np.stack([np.bincount(generator.integers(0, images, images), minlength=images) for _ in range(repeats)])


def sampled(score: Score, images: int, *, repeats: int = REPEATS, seed: int = 0) -> Sampled:
    """The number on all images, and on samples of them."""
    drawn = samples(images, repeats, seed)
    return Sampled(whole=float(score(np.ones((1, images), dtype=np.int64))[0]), drawn=score(drawn))


def set_metric(seeds: Sequence[Sampled], images: int, unit: str) -> Metric:
    """One arm: the mean of its seeds' numbers on all images, with its interval."""
    (drawn,) = _kept([one.drawn for one in seeds])
    parts = _seed_parts(_whole(seeds), drawn, images) if len(seeds) > 1 else []
    spread = combine(parts, _image_part(drawn.mean(axis=0), images))
    value = float(_whole(seeds).mean())
    return Metric(value=value, low=value - spread.reach, high=value + spread.reach, unit=unit, n=images)


def set_difference(first: Sequence[Sampled], second: Sequence[Sampled], images: int) -> Difference:
    """Mean of the first arm's seeds - mean of the second's, on the same `images` images and the same samples of them."""
    a, b = _kept([one.drawn for one in first], [one.drawn for one in second])
    known = min(len(first), len(second)) > 1
    parts = [*_seed_parts(_whole(first), a, images), *_seed_parts(_whole(second), b, images)] if known else []
    spread = combine(parts, _image_part(a.mean(axis=0) - b.mean(axis=0), images))
    return difference_of(float(_whole(first).mean() - _whole(second).mean()), spread, images, (len(first), len(second)))


def _whole(seeds: Sequence[Sampled]) -> Float[np.ndarray, " s"]:
    return np.array([one.whole for one in seeds], dtype=np.float64)


def _kept(*arms: list[np.ndarray]) -> list[Float[np.ndarray, "s r"]]:
    """The samples on which every seed of every arm has a number."""
    tables = [np.array(arm, dtype=np.float64) for arm in arms]
    known = ~np.isnan(np.concatenate(tables)).any(axis=0)
    if known.sum() < 2:
        raise InslocError("nearly no sample of the images has what is asked: too few of them have it for an interval")
    return [table[:, known] for table in tables]


def _image_part(numbers: Float[np.ndarray, " r"], images: int) -> Part:
    return Part(variance=float(numbers.var(ddof=1)), df=images - 1)


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
