"""Set metrics: the bootstrap agrees with the closed form where the metric is a mean, and covers where it is not."""

from collections.abc import Callable

import numpy as np
import pytest

from insloc_eval.set_metrics import set_difference, set_metric
from insloc_eval.stats import difference, over_seeds
from insloc_hub.errors import InslocError

Score = Callable[[np.ndarray], float]


def means(outcomes: np.ndarray) -> list[Score]:
    return [lambda at, row=row: float(row[at].mean()) for row in outcomes]  # type: ignore[misc]


def arms(seed: int, seeds: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    hard = generator.normal(0, 1, images)
    first, second = (hard + generator.normal(0, 0.7, (seeds, images)) for _ in range(2))
    return first, second + 0.2


@pytest.mark.parametrize("seeds", [1, 3])
def test_of_a_mean_the_bootstrap_gives_the_interval_of_the_closed_form(seeds: int) -> None:
    first, second = arms(0, seeds, 80)
    ours = set_difference(means(first), means(second), 80, repeats=4000)
    known = difference(first, second)
    assert ours.value == pytest.approx(known.value) and ours.seeds == known.seeds
    assert (ours.seed_sd, ours.image_sd) == pytest.approx((known.seed_sd, known.image_sd), rel=0.05)
    assert ours.high - ours.low == pytest.approx(known.high - known.low, rel=0.05)
    one, closed = set_metric(means(first), 80, "share", repeats=4000), over_seeds(first, "share")
    assert one.high - one.low == pytest.approx(closed.high - closed.low, rel=0.05)


def test_both_arms_are_drawn_on_the_same_images() -> None:
    first, _ = arms(1, 1, 60)
    gap = set_difference(means(first), means(first + 3.0), 60, repeats=200)
    assert (gap.low, gap.high) == pytest.approx((-3.0, -3.0))  # what is hard for both cancels, draw by draw


def test_a_ratio_over_images_is_covered_95_times_in_100() -> None:
    """Precision over all detections: images have different numbers of them, so that it is no mean over images."""
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        found = generator.poisson(4, 60) + 1
        right = generator.binomial(found, 0.6)
        metric = set_metric([lambda at, r=right, f=found: r[at].sum() / f[at].sum()], 60, "share", repeats=100)  # type: ignore[misc]
        covered.append(metric.low <= 0.6 <= metric.high)
    assert 0.91 <= np.mean(covered) <= 0.98


def test_one_image_gives_no_interval() -> None:
    with pytest.raises(InslocError, match="at least 2"):
        set_metric(means(np.zeros((1, 1))), 1, "share")
