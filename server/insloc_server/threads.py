"""Threads beside the lanes that compute, and what torch does on them.

Torch keeps helpers for every thread that it has worked on with several cores. While there are more of all of them than cores,
libgomp lets none wait for work by spinning, and each of the many small parallel steps of a forward then begins with a sleep:
a third more time for one image on two cores. So only lanes may have helpers.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def single_threaded() -> None:
    """From here on torch has no helpers for this thread."""
    use_cores(1)


def use_cores(count: int) -> None:
    """From here on torch works with `count` cores on this thread, and on no other."""
    torch.get_num_threads()  # else torch takes this thread's first operation for its start, and the newest number of any thread
    torch.set_num_threads(count)


def apart(work: Callable[[], T]) -> T:
    """The outcome of `work`, done on a thread that ends with it, and torch's helpers with that."""
    outcome: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="insloc-apart", daemon=True)  # a signal's exception must not wait for it
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    made: T = outcome[0]
    return made
