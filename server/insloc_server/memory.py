"""Memory that nobody uses, back to the system. glibc keeps what was freed for the next one who asks, in up to eight arenas
a core: after loading, and after a rush, that is a third of a server, for as long as it lives. Nothing is done elsewhere.
"""

import ctypes
import sys
import time
from dataclasses import dataclass, field
from typing import Any

REST_S = 1.0  # without work; shorter pauses would have the same pages faulted in again
ARENAS = 2  # one for the lanes' tensors, one for what is beside; eight a core are glibc's own choice
M_ARENA_MAX = -8  # malloc.h


def give_back() -> bool:
    """Whether free memory could be given back; milliseconds, any thread."""
    libc = _glibc()
    return libc is not None and bool(libc.malloc_trim(0))


def few_arenas() -> bool:
    """Whether glibc divides the heap no further than by `ARENAS` from here on, whatever number of threads there are."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(M_ARENA_MAX, ARENAS))


@dataclass(slots=True)
class Rest:
    """Whether a house has come to rest, once for each time it worked; loading is work."""

    came: int = -1
    since: float = field(default_factory=time.monotonic)
    """When there was work last, by the monotonic clock."""
    resting: bool = False

    def comes(self, in_work: int, came: int, now: float) -> bool:
        """Ask this now and then: whether nothing has been in work for REST_S, said once. `came` counts all requests so far.

        >>> rest = Rest(came=2, since=0.0)
        >>> [rest.comes(*asked) for asked in ((1, 3, 1.0), (0, 3, 1.5), (0, 3, 2.1), (0, 3, 3.0), (0, 4, 4.0), (0, 4, 5.0))]
        [False, False, True, False, False, True]
        """
        if in_work or came != self.came:
            self.came, self.since, self.resting = came, now, False
        if self.resting or now - self.since < REST_S:
            return False
        self.resting = True
        return True


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
