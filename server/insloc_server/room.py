"""Who may come in: room for images and bytes, and the wait that would be theirs; judged before anything is decoded.

The rule of serving.md 3 and 6.6: what is ahead must be computed within a share of the deadline, by the running cost; but
two batches are always let in, and one stall does not count for more than three times the usual, so that nothing is
refused below capacity. Where two batches are more than can be answered in time, the first that runs out of time shows it:
then the estimate was not too dark, and decides alone for a while.
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
LATE_S = 10.0  # how long the floor is off after somebody was not answered in time
FEASIBLE = 4.0  # times what its own images take; who asks for less time is late for no fault of ours
HAIR_S = 0.02  # an answer given up this shortly before its end was given up at its end


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


class Room:
    """The house: `images` and `size` (bytes) bound what is in it; `floor` images are let in whatever the pace seems to be.

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
        self._late = -math.inf  # when a request last left after its time
        self._lock = threading.Lock()

    def take(self, images: int, client: str, within_s: float) -> "Place":
        """Room for `images`, to be answered within `within_s`. Refusal: overloaded or rate_limited, with `retry_after`."""
        with self._lock:
            own = self._clients.get(client, Held())
            self._check("images", client, self.whole.images, self.in_work.images, own.images, images)
            others = [held.images for name, held in self._clients.items() if name != client]
            ahead = own.images + sum(min(theirs, own.images + images) for theirs in others)  # turns go round
            wait_s = ahead * self.pace.seconds
            floor = self.floor if time.monotonic() - self._late > LATE_S else 0
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
                now = time.monotonic()
                feasible = place.within_s > FEASIBLE * place.images * self.pace.seconds
                if feasible and now > place.expires - HAIR_S:
                    self._late = now
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
        self.within_s = within_s
        """Time to answer."""
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
