"""Intervals: closed forms, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from insloc_eval.stats import mean, paired_difference, share, wilson
from insloc_hub.errors import InslocError


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
