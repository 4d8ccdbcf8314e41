"""Who may come in: room for images and bytes, and the wait that would be theirs; judged before anything is decoded.

The rule of serving.md 3 and 6.6: what is ahead must be computed within a share of the deadline, by the running cost; but
a few are let in whatever it says, and one stall does not count for more than three times the usual, so that nothing is
refused below capacity. What is more than the share for longer than a burst lasts is a standing queue, which is what too
much load is: until it is nearly gone, the share decides alone.
"""

import math
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass

from insloc_server.problems import Refusal

SHARE_OF_DEADLINE = 0.6  # of the time there is, for what is ahead; the rest is for the request's own work
SMOOTHING = 0.2  # share of the newest batch in the running cost
SAMPLES = 16  # whose median a new one is held against
LARGEST_SAMPLE = 3.0  # times the median
LONGEST_RETRY_S = 30
BURST = 0.25  # of the time there is: how long the wait may be above the share
CALM = 0.3  # the same, of a wait that ends a standing queue


class Pace:
    """Seconds per image, as the last batches took them."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self._last: deque[float] = deque(maxlen=SAMPLES)

    def took(self, seconds: float, images: int) -> None:
        """A batch of `images` took `seconds`."""
        sample = seconds / images
        if not self._last:
            self.seconds = sample
        self._last.append(sample)
        usual = statistics.median(self._last)
        self.seconds += SMOOTHING * (min(sample, LARGEST_SAMPLE * usual) - self.seconds)


@dataclass(slots=True)
class Held:
    """What a client has in the house."""

    images: int = 0
    size: int = 0
    """Bytes of network inputs."""
    since: float = math.inf
    """When the wait for more of it came to be above the share, by the monotonic clock; inf: it is not."""

    def stands(self, wait_s: float, within_s: float, now: float) -> bool:
        """Note the wait that a request of this client finds; whether its queue is one that stands.

        >>> held = Held()
        >>> [held.stands(wait_s, 1.0, now) for wait_s, now in ((0.7, 0.0), (0.7, 0.2), (0.7, 0.3), (0.4, 0.5), (0.2, 0.6))]
        [False, False, True, True, False]
        """
        if wait_s <= CALM * within_s:
            self.since = math.inf
        elif wait_s > SHARE_OF_DEADLINE * within_s:
            self.since = min(self.since, now)
        return now - self.since > BURST * within_s


class Room:
    """The house: `images` and `size` (bytes) bound what is in it; `floor` images get in at first whatever the pace seems to be.

    A client told apart by name (not "") who is not alone gets half of it, and a newcomer gets in beside a full house up to
    his part of the other half: nobody can fill it for others. An empty house takes any request.
    """

    def __init__(self, images: int, size: int, floor: int) -> None:
        self.whole = Held(images=images, size=size)
        self.floor = floor
        self.in_work = Held()
        self.came = 0
        """Requests that were let in so far."""
        self.pace = Pace()
        self._clients: dict[str, Held] = {}
        self._lock = threading.Lock()

    def take(self, images: int, client: str, within_s: float) -> "Place":
        """Room for `images`, to be answered within `within_s`. Refusal: overloaded or rate_limited, with `retry_after`."""
        with self._lock:
            own = self._clients.get(client, Held())
            self._check("images", client, self.whole.images, self.in_work.images, own.images, images)
            others = [held.images for name, held in self._clients.items() if name != client]
            ahead = own.images + sum(min(theirs, own.images + images) for theirs in others)  # turns go round
            wait_s = ahead * self.pace.seconds
            floor = 0 if own.stands(wait_s, within_s, time.monotonic()) else self.floor
            if ahead and ahead + images > floor and wait_s > SHARE_OF_DEADLINE * within_s:
                raise self._refusal(
                    "overloaded", f"{ahead} images are ahead, about {wait_s:.1f} s of the {within_s:g} s there are"
                )
            self._clients[client] = own
            self._add(own, images=images)
            self.came += 1
        return Place(self, client, images, within_s)

    def grow(self, place: "Place", size: int) -> None:
        """`size` bytes more are held for `place`, if it is still held. Refusal, as in `take`."""
        with self._lock:
            if place.held:
                own = self._clients[place.client]
                self._check("bytes", place.client, self.whole.size, self.in_work.size, own.size, size)
                self._add(own, size=size)
                place.size += size

    def leave(self, place: "Place") -> None:
        """What `place` had taken is free again; a second time does nothing."""
        with self._lock:
            if place.held:
                place.held = False
                own = self._clients[place.client]
                self._add(own, images=-place.images, size=-place.size)
                if own.images == 0:
                    del self._clients[place.client]

    def _check(self, what: str, client: str, whole: int, total: int, own: int, more: int) -> None:
        if total == 0:
            return
        there = len(self._clients.keys() | {client})
        if client and there > 1 and own + more > whole // 2:
            raise self._refusal(
                "rate_limited", f"your share while others are served is {whole // 2:,} {what}, in work are {own:,}"
            )
        newcomer = client and own + more <= whole // (2 * there)
        if total + more > whole and not newcomer:
            raise self._refusal("overloaded", f"{total:,} {what} are in work")

    def _refusal(self, code: str, detail: str) -> Refusal:
        retry = min(LONGEST_RETRY_S, max(1, math.ceil(self.in_work.images * self.pace.seconds)))
        return Refusal(code, f"{detail}; try again in {retry} s", retry_after=retry)

    def _add(self, own: Held, images: int = 0, size: int = 0) -> None:
        for held in (own, self.in_work):
            held.images += images
            held.size += size


class Place:
    """A request's room, from before its images are decoded until its answer is built."""

    def __init__(self, room: Room, client: str, images: int, within_s: float) -> None:
        self.client = client
        self.images = images
        self.expires = time.monotonic() + within_s
        """By the monotonic clock."""
        self.size = 0
        """Bytes of network inputs so far."""
        self.held = True
        self._room = room

    def grow(self, size: int) -> None:
        """An image has become `size` bytes of network input. Refusal: overloaded, rate_limited."""
        self._room.grow(self, size)

    def release(self) -> None:
        """Give the room back; a second time does nothing."""
        self._room.leave(self)
