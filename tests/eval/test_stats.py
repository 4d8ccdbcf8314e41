"""Intervals: closed forms, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from insloc_eval.stats import Difference, difference, mean, over_seeds, share, wilson
from insloc_hub.errors import InslocError

DESIGNS = [(seeds, images, sd) for seeds in (3, 5) for images in (72, 500) for sd in (0.0, 0.02, 0.1)]
DRAWS = 1500


def paired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    return difference(first[None], second[None])


def two_arms(generator: np.random.Generator, seeds: int, images: int, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes [seed, image] of two equal arms with a variance of 1 over images: half of it is how hard the image is,
    a quarter what the arm makes of it, a quarter what the seed does; and seeds that differ by `sd`."""
    hard = generator.normal(0, 0.5**0.5, images)
    return tuple(  # type: ignore[return-value]
        hard
        + generator.normal(0, 0.5, images)
        + generator.normal(0, 0.5, (seeds, images))
        + generator.normal(0, sd, (seeds, 1))
        for _ in range(2)
    )


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 20), (13, 20), (20, 20), (470, 1000)])
def test_shares_of_single_trials_have_wilsons_interval(right: int, n: int) -> None:
    metric = share((np.arange(n) < right).astype(np.float64))
    known = scipy_stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (metric.low, metric.high) == pytest.approx((known.low, known.high), abs=1e-12)
    assert (metric.value, metric.n) == (right / n, n)


def test_a_mean_has_the_t_interval() -> None:
    values = np.array([1.0, 4.0, 2.5, 7.0])
    known = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    assert (mean(values, "cells").low, mean(values, "cells").high) == pytest.approx((known.low, known.high))


def test_a_paired_difference_has_the_paired_t_interval_and_the_textbook_power() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(1, 1, 30), generator.normal(0, 2, 30)
    gap = paired_difference(first, second)
    known = scipy_stats.ttest_rel(first, second).confidence_interval()
    assert (gap.low, gap.high) == pytest.approx((known.low, known.high))
    error = (first - second).std(ddof=1) / np.sqrt(30)
    assert gap.smallest == pytest.approx((scipy_stats.t.ppf(0.975, 29) + scipy_stats.t.ppf(0.8, 29)) * error)
    assert paired_difference(second, first).value == -gap.value


def test_equal_models_show_no_difference_and_shifted_ones_do() -> None:
    outcomes = np.array([0.0, 1.0, 1.0, 0.0])
    assert not paired_difference(outcomes, outcomes).shown
    assert paired_difference(outcomes + np.array([1.0, 1.1, 1.0, 1.1]), outcomes).shown


def test_images_of_several_trials_that_all_agree_count_once_each() -> None:
    ones = np.ones(50)
    assert share(ones, trials=9).low == pytest.approx(wilson(1.0, 50)[0])


def test_images_whose_trials_are_independent_count_as_that_many_trials() -> None:
    generator = np.random.default_rng(1)
    shares = generator.binomial(9, 0.4, 4000) / 9
    low, high = wilson(float(shares.mean()), 9 * 4000)
    metric = share(shares, trials=9)
    assert metric.high - metric.low == pytest.approx(high - low, rel=0.05)


def test_images_whose_trials_are_equal_count_once_each() -> None:
    shares = np.repeat([0.0, 1.0], [30, 70])
    once, nine = share(shares), share(shares, trials=9)
    assert (nine.low, nine.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(("p", "n"), [(0.02, 300), (0.5, 60), (0.98, 300)])
def test_wilsons_interval_covers_the_truth_95_times_in_100(p: float, n: int) -> None:
    draws = np.random.default_rng(2).binomial(n, p, 4000) / n
    covered = np.mean([low <= p <= high for low, high in (wilson(float(one), n) for one in draws)])
    assert 0.93 <= covered <= 0.975


def test_the_interval_of_image_shares_covers_the_truth_where_trials_of_an_image_agree() -> None:
    generator = np.random.default_rng(3)
    rates = generator.beta(2, 3, (1500, 100))  # an image is easy or hard: mean 0.4
    sets = generator.binomial(9, rates) / 9
    metrics = [share(one, trials=9) for one in sets]
    assert 0.93 <= np.mean([m.low <= 0.4 <= m.high for m in metrics]) <= 0.97


def test_the_paired_interval_covers_the_true_difference_and_finds_the_smallest_one_with_80_percent_power() -> None:
    generator = np.random.default_rng(4)
    gaps = generator.normal(0, 1, (2000, 100))
    zero = np.zeros(100)
    covered = np.mean([not paired_difference(one, zero).shown for one in gaps])
    assert 0.935 <= covered <= 0.965
    smallest = np.mean([paired_difference(one, zero).smallest for one in gaps])
    found = np.mean([paired_difference(one + smallest, zero).shown for one in gaps])
    assert 0.77 <= found <= 0.83


@pytest.mark.parametrize("few", [np.zeros(0), np.zeros(1)])
def test_fewer_than_two_images_give_no_interval(few: np.ndarray) -> None:
    with pytest.raises(InslocError, match="at least 2"):
        mean(few, "cells")
    with pytest.raises(InslocError, match="at least 2"):
        share(few)


def test_an_arm_difference_is_the_formula_of_the_contract_written_out() -> None:
    a, b = two_arms(np.random.default_rng(5), 3, 8, 0.5)
    b = b[:2]
    gap = difference(a, b)

    def residual(y: np.ndarray) -> float:
        s, n = y.shape
        total = 0.0
        for i in range(s):
            for j in range(n):
                total += (y[i, j] - y[i].mean() - y[:, j].mean() + y.mean()) ** 2
        return total / ((s - 1) * (n - 1)) / (s * n)

    seeds = a.mean(1).var(ddof=1) / 3, b.mean(1).var(ddof=1) / 2
    images = (a.mean(0) - b.mean(0)).var(ddof=1) / 8
    twice = residual(a), residual(b)
    variance = max(sum(seeds) + images - sum(twice), sum(seeds), images)
    below = seeds[0] ** 2 / 2 + seeds[1] ** 2 / 1 + images**2 / 7 + twice[0] ** 2 / 14 + twice[1] ** 2 / 7
    df = variance**2 / below
    half = scipy_stats.t.ppf(0.975, df) * variance**0.5
    assert gap.value == pytest.approx(a.mean() - b.mean())
    assert (gap.low, gap.high) == pytest.approx((gap.value - half, gap.value + half))
    assert gap.smallest == pytest.approx(half + scipy_stats.t.ppf(0.8, df) * variance**0.5)
    assert gap.seeds == (3, 2) and gap.n == 8
    assert (gap.seed_sd, gap.image_sd) == pytest.approx((sum(seeds) ** 0.5, images**0.5))


def test_the_variance_is_never_below_either_of_its_parts() -> None:
    """All variation is seed x image residual: the two parts less the residual would be about nothing."""
    generator = np.random.default_rng(6)
    for _ in range(50):
        gap = difference(*(generator.normal(0, 1, (3, 20)) for _ in range(2)))
        assert gap.high - gap.value >= 1.9 * max(gap.seed_sd, gap.image_sd)


@pytest.mark.parametrize(("seeds", "images", "sd"), DESIGNS)
def test_intervals_of_arms_cover_no_difference_95_times_in_100_and_find_the_smallest_one_80_times(
    seeds: int, images: int, sd: float
) -> None:
    generator = np.random.default_rng([seeds, images, int(1000 * sd)])
    gaps = [difference(*two_arms(generator, seeds, images, sd)) for _ in range(DRAWS)]
    assert 0.93 <= np.mean([not gap.shown for gap in gaps]) <= 0.98
    # The stated value is itself estimated; variances, not their roots, are so without bias: hence the mean of squares.
    smallest = np.mean([gap.smallest**2 for gap in gaps]) ** 0.5
    assert 0.76 <= np.mean([gap.low + smallest > 0 for gap in gaps]) <= 0.84


@pytest.mark.parametrize(("seeds", "images", "sd"), [(3, 72, 0.1), (5, 500, 0.02)])
def test_the_interval_of_one_arm_covers_its_true_mean(seeds: int, images: int, sd: float) -> None:
    generator = np.random.default_rng(8)
    metrics = [over_seeds(two_arms(generator, seeds, images, sd)[0], "share") for _ in range(DRAWS)]
    assert 0.93 <= np.mean([m.low <= 0 <= m.high for m in metrics]) <= 0.98


def test_with_one_seed_in_an_arm_only_the_images_are_in_the_interval() -> None:
    a, b = two_arms(np.random.default_rng(9), 3, 40, 5.0)
    known = scipy_stats.ttest_rel(a.mean(0), b[0]).confidence_interval()
    gap = difference(a, b[:1])
    assert (gap.low, gap.high) == pytest.approx((known.low, known.high))
    assert gap.seeds == (3, 1) and gap.seed_sd == 0.0
    assert over_seeds(a[:1], "share") == mean(a[0], "share")


def test_arms_that_agree_on_everything_differ_by_nothing() -> None:
    ones = np.ones((3, 10))
    gap = difference(ones, ones)
    assert (gap.value, gap.low, gap.high, gap.smallest) == (0, 0, 0, 0) and not gap.shown
