"""The order of images, and making batches ahead in a thread."""

import threading
import time

import numpy as np
import pytest

from insloc_hub.data.loader import batch_indices, prefetch, steps_per_epoch


def epoch_of(images: int, batch: int, seed: int, epoch: int) -> list[int]:
    steps = steps_per_epoch(images, batch)
    rows = [batch_indices(images, batch, seed, epoch * steps + i) for i in range(steps)]
    assert [number for number, _ in rows] == [epoch] * steps
    return [index for _, indices in rows for index in indices]


@pytest.mark.parametrize(("images", "batch", "steps"), [(8, 8, 1), (9, 8, 2), (16, 8, 2), (2, 8, 1), (1_281_167, 256, 5005)])
def test_an_epoch_has_full_batches_that_reach_every_image(images: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(images, batch) == steps


@pytest.mark.parametrize(("images", "batch"), [(24, 8), (25, 8), (31, 8), (100, 7)])
def test_an_epoch_is_a_permutation_filled_up_from_its_beginning(images: int, batch: int) -> None:
    order = epoch_of(images, batch, 0, 0)
    assert sorted(order[:images]) == list(range(images))
    assert order[images:] == order[: len(order) - images] and len(order) % batch == 0
    assert order[:images] != list(range(images))


def test_a_batch_longer_than_the_set_goes_round() -> None:
    _, indices = batch_indices(3, 8, 0, 0)
    assert sorted(indices[:3]) == [0, 1, 2] and indices == (indices[:3] * 3)[:8]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first = epoch_of(40, 8, 0, 0)
    assert epoch_of(40, 8, 0, 0) == first
    assert len({tuple(first), tuple(epoch_of(40, 8, 0, 1)), tuple(epoch_of(40, 8, 1, 0))}) == 3


def test_neighbouring_epochs_do_not_hang_together() -> None:
    places = [np.argsort(epoch_of(400, 8, 0, epoch)) for epoch in range(2)]
    assert abs(np.corrcoef(places)[0, 1]) < 0.15


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "insloc-prefetch"]


def test_results_come_in_order_and_are_made_ahead_up_to_the_depth() -> None:
    made: list[int] = []
    batches = prefetch(lambda n: made.append(n) or n * n, 3, 9, depth=2)
    assert next(batches) == 9
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert made == [3, 4, 5, 6]  # given out, two ready, one waiting for its place
    assert list(batches) == [16, 25, 36, 49, 64]
    assert made == list(range(3, 9)) and workers() == []


def test_no_number_makes_nothing() -> None:
    assert list(prefetch(lambda n: n, 5, 5)) == []


@pytest.mark.parametrize("bad", [0, 3])
def test_an_error_comes_at_its_turn_and_ends_the_thread(bad: int) -> None:
    def make(number: int) -> int:
        if number == bad:
            raise OSError("the disk is gone")
        return number

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for item in prefetch(make, 0, 6):
            seen.append(item)
    assert seen == list(range(bad)) and workers() == []


def test_leaving_early_ends_the_thread() -> None:
    batches = prefetch(lambda n: n, 0, 1000)
    assert [next(batches), next(batches)] == [0, 1] and len(workers()) == 1
    batches.close()
    assert workers() == []
