"""Which images a step sees, and making them ready while the step before still runs.

The order is a function of (seed, epoch) and the position one of the step, so a run resumes at any step without state.
"""

import functools
import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
POOL, POOL_BATCHES = 4096, 4
ALL = slice(None)
ORDER_STREAM = 9  # apart from the compositor's streams


def steps_per_epoch(images: int, batch: int) -> int:
    """Steps that see every image at least once; the last one is filled up from the epoch's beginning, as released.

    >>> steps_per_epoch(1_281_167, 256)
    5005
    """
    return -(-images // batch)


def batch_indices(images: int, batch: int, seed: int, step: int) -> tuple[int, list[int]]:
    """Epoch (from 0) and image indices of optimizer step `step` (from 0)."""
    epoch, position = divmod(step, steps_per_epoch(images, batch))
    places = np.arange(position * batch, (position + 1) * batch) % images
    return epoch, _order(images, seed, epoch)[places].tolist()


def recent_indices(images: int, batch: int, seed: int, step: int, most: int, share: slice = ALL) -> npt.NDArray[np.int64]:
    """Image indices of step `step` and of the steps before it, at most `most` (but one batch at least).

    In a stream these are the images that are decoded already: a function of the step, so a resumed run draws from the same.
    `share` is what one process sees of each batch.
    """
    number = len(range(batch)[share])
    first = max(0, step + 1 - max(1, most // number))
    return np.concatenate([batch_indices(images, batch, seed, earlier)[1][share] for earlier in range(first, step + 1)])


def pool_size(batch: int) -> int:
    """Images that backgrounds come from in a stream (contracts.md 12)."""
    return max(POOL, POOL_BATCHES * batch)


@functools.lru_cache(maxsize=2)
def _order(images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(key=[seed, ORDER_STREAM], counter=[0, 0, epoch, 0]))
    return generator.permutation(images)


def prefetch(make: Callable[[int], Item], first: int, stop: int, depth: int = 2) -> Generator[Item, None, None]:
    """make(first), ..., make(stop - 1) in order, up to `depth` of them made ahead in a thread.

    An error in `make` is raised here, at its turn. Leaving the loop early ends the thread.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=depth)
    over = threading.Event()

    def work() -> None:
        for number in range(first, stop):
            try:
                item: tuple[Item | None, BaseException | None] = (make(number), None)
            except BaseException as error:
                item = (None, error)
            while not over.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if over.is_set() or item[1] is not None:
                return

    thread = threading.Thread(target=work, name="insloc-prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(first, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        over.set()
        thread.join()
