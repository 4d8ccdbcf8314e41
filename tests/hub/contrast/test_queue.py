"""The ring of past keys: what is written where, in the frozen run and at its end."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from insloc_hub.contrast.queue import Queue


def make(levels: int = 2, dim: int = 3, slots: int = 8, seed: int = 0) -> Queue:
    return Queue(levels, dim, slots, torch.Generator().manual_seed(seed))


def test_three_batches_leave_the_frozen_queue_and_pointer(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    frozen = golden("infonce")
    queue = make().double()
    queue.keys.copy_(torch.from_numpy(frozen["queue_start"]))
    for batch, after, pointer in zip(frozen["queue_keys"], frozen["queue_after"], frozen["queue_ptr_after"], strict=True):
        queue.enqueue(torch.from_numpy(batch))
        assert np.array_equal(queue.keys.numpy(), after)
        assert queue.pointer.tolist() == [pointer]


def test_a_full_round_replaces_every_key_and_starts_again() -> None:
    queue = make(levels=1, dim=2, slots=6)
    for number in range(4):
        queue.enqueue(torch.full((2, 1, 2), float(number)))
    assert queue.keys[0, 0].tolist() == [3, 3, 1, 1, 2, 2]
    assert queue.pointer.tolist() == [2]


def test_a_batch_as_long_as_the_queue_fills_it() -> None:
    queue = make(levels=2, dim=3, slots=4)
    keys = torch.arange(24.0).view(4, 2, 3)
    queue.enqueue(keys)
    assert torch.equal(queue.keys, keys.permute(1, 2, 0)) and queue.pointer.tolist() == [0]


@pytest.mark.parametrize("batch", [3, 5, 7, 16])
def test_a_batch_that_does_not_divide_the_slots_is_refused_and_nothing_is_written(batch: int) -> None:
    queue = make()
    before = queue.keys.clone()
    with pytest.raises(ValueError, match=f"batch of {batch} does not divide the 8 slots"):
        queue.enqueue(torch.zeros(batch, 2, 3))
    assert torch.equal(queue.keys, before) and queue.pointer.tolist() == [0]


def test_it_starts_with_unit_columns_that_differ_by_level_slot_and_seed() -> None:
    queue = make(levels=4, dim=128, slots=64)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(4, 64), atol=1e-6)
    columns = queue.keys.permute(0, 2, 1).reshape(-1, 128)
    off = (columns @ columns.T).fill_diagonal_(0)
    assert off.abs().max() < 0.6 and float(off.mean()) == pytest.approx(0, abs=0.01)
    assert not torch.equal(make(seed=1).keys, make(seed=0).keys)
    assert torch.equal(make(seed=1).keys, make(seed=1).keys)


def test_it_is_saved_whole_and_takes_no_gradient() -> None:
    queue = make()
    assert set(queue.state_dict()) == {"keys", "pointer"} and list(queue.parameters()) == []
    keys = torch.ones(4, 2, 3, requires_grad=True)
    queue.enqueue(keys)
    assert not queue.keys.requires_grad
