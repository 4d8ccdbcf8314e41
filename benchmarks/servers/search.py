"""LitServe's settings: the grid of its user's choices, and a coordinate-wise search in it for the best cell of each load.

The whole grid is 80 cells and 20 minutes. Searched is one setting after the other, each from the best cell so far of each
load: batch, window, workers, transport. Every cell that was measured is printed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from servers.start import THREADS


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One setting of LitServe."""

    batch: int = 1
    """max_batch_size"""
    window_ms: float = 0.0
    """batch_timeout; without a batch it has no meaning, and is 0."""
    workers: int = 1
    """workers_per_device; each has its part of the threads."""
    transport: str = "queue"
    """queue (the default) or zmq (fast_queue=True)."""
    timeout_s: float = 30.0
    """timeout: what has waited longer is not begun any more."""

    def __post_init__(self) -> None:
        if self.batch == 1:
            object.__setattr__(self, "window_ms", 0.0)

    @property
    def threads(self) -> int:
        """Of torch, in each worker."""
        return THREADS // self.workers

    def __str__(self) -> str:
        window = f", window {self.window_ms:g} ms" if self.batch > 1 else ""
        timeout = f", timeout {self.timeout_s:g} s" if self.timeout_s != Cell().timeout_s else ""
        return f"batch {self.batch}{window}, {self.workers} x {self.threads} threads, {self.transport}{timeout}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """What each setting may be."""

    batches: tuple[int, ...] = (1, 2, 4, 8)
    windows_ms: tuple[float, ...] = (0, 1, 5, 20, 50)
    workers: tuple[int, ...] = (1, 2)
    transports: tuple[str, ...] = ("queue", "zmq")
    first_window_ms: float = 5
    """While batches are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The outcome of a search."""

    measured: Mapping[Cell, Mapping[int, float]]
    """Answers a second of each cell, by number of clients; of those loads alone whose search came by."""

    def at(self, clients: int) -> Cell:
        """The best cell of this load."""
        tried = [cell for cell, rates in self.measured.items() if clients in rates]
        return max(tried, key=lambda cell: self.measured[cell][clients])


def search(measure: Callable[[Cell, Sequence[int]], Mapping[int, float]], loads: Sequence[int], grid: Grid) -> Best:
    """The best cell for each number of clients. `measure` is asked once for each cell and load: a start serves all loads."""
    measured: dict[Cell, dict[int, float]] = {}
    best = Best(measured=measured)

    def visit(near: Callable[[Cell], list[Cell]]) -> None:
        wanted: dict[Cell, list[int]] = {}
        for clients in loads:
            for cell in dict.fromkeys(near(best.at(clients) if measured else Cell())):
                if clients not in measured.get(cell, {}):
                    wanted.setdefault(cell, []).append(clients)
        for cell, some in wanted.items():
            measured.setdefault(cell, {}).update(measure(cell, some))

    visit(lambda _: [Cell(batch=batch, window_ms=grid.first_window_ms) for batch in grid.batches])
    visit(lambda cell: [replace(cell, window_ms=window) for window in grid.windows_ms])
    # Two workers without batches suit two cores; the best batch of one worker would hide that.
    visit(lambda cell: [replace(some, workers=workers) for some in (cell, Cell()) for workers in grid.workers])
    visit(lambda cell: [replace(cell, transport=transport) for transport in grid.transports])
    return best
