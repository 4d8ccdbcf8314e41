"""What waits for the model, and which of it goes next together. No timer: a batch is what waits when a lane is free.

Images are counted, not requests. Turns go round by model and then by client, so that nobody's long line holds up another
(serving.md 4 and 6.6). Not thread-safe: its owner has the lock.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

COMPETING_S = 10.0  # clients that came within this time of each other share; a polite one asks now and then


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Waiting:
    """One image in the queue."""

    model: Hashable
    client: str
    key: Hashable
    """Images of equal keys may share a forward."""
    since: float
    """When it came, by the monotonic clock, as all times here."""
    expires: float
    """When its answer is of no use any more."""
    gone: Callable[[], bool]
    """Whether nobody waits for it any more."""
    payload: Any


class Batcher:
    """The lines of the clients of each model, and whose turn it is.

    `joint`: whether a batch costs about as much as one image, as on an accelerator. Where it does not (a CPU), a batch
    makes others wait as long as it is large. So while several clients come, nobody gives it more than one image, and
    nobody goes twice in a row while another waits: whoever comes waits for one image and for his own.
    """

    def __init__(self, most: int, joint: bool) -> None:
        self.most = most
        self.joint = joint
        # Never an empty line; the first key is whose turn it is.
        self._lines: dict[Hashable, dict[str, deque[Waiting]]] = {}
        self._seen: dict[str, float] = {}
        self._last: list[str] = []

    def __len__(self) -> int:
        return sum(len(line) for line in self._all())

    def add(self, waiting: Waiting) -> None:
        """At the end of its client's line."""
        self._seen[waiting.client] = waiting.since
        self._lines.setdefault(waiting.model, {}).setdefault(waiting.client, deque()).append(waiting)

    def oldest(self) -> float | None:
        """When the image came that has waited longest; None: none waits."""
        return min((line[0].since for line in self._all()), default=None)

    def take(self, now: float, busy: int = 0, idle: int = 1) -> tuple[list[Waiting], list[Waiting]]:
        """The next batch, of one model and one key; and what has expired meanwhile. What is gone is dropped in silence.

        `busy` others are being computed; `idle` may be, this one among them: what waits is for all of them. While several
        clients come, there is one at a time: a second would take half of the cores from it.
        """
        expired = self._drop(now)
        competing = self.competing(now)
        if not self._lines or (competing and busy):
            return [], expired
        model = next(iter(self._lines))
        batch = self._joined(self._lines[model], competing, min(self.most, -(-len(self) // idle)))
        self._last = list(dict.fromkeys(one.client for one in batch))
        self._to_the_end(model, self._last)
        return batch, expired

    def competing(self, now: float) -> bool:
        """Whether one image at a time is computed, on everything there is, since several clients come."""
        self._seen = {client: when for client, when in self._seen.items() if now - when < COMPETING_S}
        return not self.joint and len(self._seen) > 1

    def clear(self) -> list[Waiting]:
        """Everything that waits; the queue is empty."""
        waiting = [one for line in self._all() for one in line]
        self._lines.clear()
        return waiting

    def _joined(self, lines: dict[str, deque[Waiting]], competing: bool, most: int) -> list[Waiting]:
        """One image of each client in turn, again and again, as long as there are images of the first one's key."""
        order: Sequence[str] = list(lines)
        if competing:
            order = [client for client in order if client not in self._last] or order[:1]
        key = lines[order[0]][0].key
        batch: list[Waiting] = []
        while len(batch) < most:
            before = len(batch)
            for client in order:
                found = next((one for one in lines[client] if one.key == key), None)
                if found is not None and len(batch) < most:
                    lines[client].remove(found)
                    batch.append(found)
            if competing or len(batch) == before:
                break
        return batch

    def _to_the_end(self, model: Hashable, served: Sequence[str]) -> None:
        lines = self._lines.pop(model)
        for client in served:
            lines[client] = lines.pop(client)
        left = {client: line for client, line in lines.items() if line}
        if left:
            self._lines[model] = left

    def _drop(self, now: float) -> list[Waiting]:
        expired = [one for line in self._all() for one in line if now >= one.expires and not one.gone()]
        for model, lines in list(self._lines.items()):
            kept = {c: deque(one for one in line if now < one.expires and not one.gone()) for c, line in lines.items()}
            self._lines[model] = {client: line for client, line in kept.items() if line}
            if not self._lines[model]:
                del self._lines[model]
        return expired

    def _all(self) -> list[deque[Waiting]]:
        return [line for lines in self._lines.values() for line in lines.values()]
