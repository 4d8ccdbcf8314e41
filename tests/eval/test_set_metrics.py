"""Set metrics: the bootstrap agrees with the closed form where the metric is a mean, and covers where it is not."""

from collections.abc import Callable

import numpy as np
import pytest

from insloc_eval.set_metrics import Sampled, sampled, samples, set_difference, set_metric
from insloc_eval.stats import difference, over_seeds
from insloc_hub.errors import InslocError

Score = Callable[[np.ndarray], np.ndarray]


def means(outcomes: np.ndarray, repeats: int) -> list[Sampled]:
    images = outcomes.shape[1]
    return [sampled(lambda counts, row=row: counts @ row / images, images, repeats=repeats) for row in outcomes]  # type: ignore[misc]


def arms(seed: int, seeds: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    hard = generator.normal(0, 1, images)
    first, second = (hard + generator.normal(0, 0.7, (seeds, images)) for _ in range(2))
    return first, second + 0.2


@pytest.mark.parametrize("seeds", [1, 3])
def test_of_a_mean_the_bootstrap_gives_the_interval_of_the_closed_form(seeds: int) -> None:
    first, second = arms(0, seeds, 80)
    ours = set_difference(means(first, 4000), means(second, 4000), 80)
    known = difference(first, second)
    assert ours.value == pytest.approx(known.value) and ours.seeds == known.seeds
    assert (ours.seed_sd, ours.image_sd) == pytest.approx((known.seed_sd, known.image_sd), rel=0.05)
    assert ours.high - ours.low == pytest.approx(known.high - known.low, rel=0.05)
    one, closed = set_metric(means(first, 4000), 80, "share"), over_seeds(first, "share")
    assert one.high - one.low == pytest.approx(closed.high - closed.low, rel=0.05)


def test_both_arms_are_drawn_on_the_same_images() -> None:
    first, _ = arms(1, 1, 60)
    gap = set_difference(means(first, 200), means(first + 3.0, 200), 60)
    assert (gap.low, gap.high) == pytest.approx((-3.0, -3.0))  # what is hard for both cancels, draw by draw


def test_a_ratio_over_images_is_covered_95_times_in_100() -> None:
    """Precision over all detections: images have different numbers of them, so that it is no mean over images."""
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        found = generator.poisson(4, 60) + 1
        right = generator.binomial(found, 0.6)
        one = sampled(lambda counts, r=right, f=found: counts @ r / (counts @ f), 60, repeats=100)  # type: ignore[misc]
        metric = set_metric([one], 60, "share")
        covered.append(metric.low <= 0.6 <= metric.high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_a_sample_without_what_is_asked_is_left_out_of_both_arms() -> None:
    first, second = arms(3, 1, 40)
    a, b = means(first, 300)[0], means(second, 300)[0]
    a.drawn[:50] = np.nan
    short = [Sampled(whole=one.whole, drawn=one.drawn[50:]) for one in (a, b)]
    assert set_difference([a], [b], 40) == set_difference(short[:1], short[1:], 40)
    with pytest.raises(InslocError, match="nearly no sample"):
        set_metric([Sampled(whole=0.0, drawn=np.full(9, np.nan))], 40, "share")


def test_a_sample_has_as_many_images_and_is_the_same_each_time() -> None:
    drawn = samples(30, 50)
    assert drawn.shape == (50, 30) and (drawn.sum(axis=1) == 30).all() and (drawn == samples(30, 50)).all()


def test_one_image_gives_no_interval() -> None:
    with pytest.raises(InslocError, match="at least 2"):
        samples(1)
