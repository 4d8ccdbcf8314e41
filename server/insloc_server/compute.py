"""A device's lanes: threads that take the next batch as soon as they are free, hand it to its model, and outlive all of it.

An accelerator has one lane. A CPU has two: two images on half the cores each are done sooner than one after the other on
all of them (docs/speed.md). A lane that is alone, and likely to stay so, has all cores.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from insloc_hub.errors import InslocError
from insloc_server.batcher import Batcher, Waiting
from insloc_server.jobs import Item, Job
from insloc_server.problems import Refusal
from insloc_server.threads import apart, use_cores

log = logging.getLogger(__name__)

COMPANY_S = 0.25  # after two lanes have worked together: then a lane on all cores would have to share them all the same

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # torch's words, on CUDA and on the CPU


@runtime_checkable
class Runner(Protocol):
    """A model, as a lane sees it."""

    def compute(self, jobs: Sequence[tuple[Job, Item]]) -> list[Any]:
        """Per image its tensors by output, or the Refusal in their place. Any exception: the batch failed."""


class Compute:
    """A device's queue and its lanes. `start` it, `close` it; between the two any thread may `add` and `call`.

    `cores` are torch's threads of a lane that is alone; lanes that work at the same time share them.
    """

    def __init__(self, batcher: Batcher, lanes: int = 1, cores: int = 1) -> None:
        self.changed = threading.Condition()
        self.threads = [threading.Thread(target=self._run, args=(n,), name=f"insloc-compute-{n}") for n in range(lanes)]
        self.took: Callable[[int, float], object] = lambda images, seconds: None
        """Told the size of each batch, and the seconds since the one before it was done or, after a pause, this one began."""
        self._batcher = batcher
        self._cores = cores
        self._busy: set[int] = set()
        self._since = 0.0
        self._together = -math.inf
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._beats: list[tuple[set[int], Future[None]]] = []
        self._closing = False

    def start(self) -> None:
        """Start the lanes."""
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """End the lanes after the batches they are at; what still waits is refused."""
        stopping = Refusal("not_ready", "the server is stopping")
        with self.changed:
            self._closing = True
            waiting, self._calls, calls = self._batcher.clear(), [], self._calls
            beats, self._beats = self._beats, []
            self.changed.notify_all()
        for one in waiting:
            one.payload[0].refuse(stopping)
        for _, future in [*calls, *beats]:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopping)
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def add(self, waiting: Sequence[Waiting]) -> None:
        """Queue images, all or none. Refusal: not_ready."""
        with self.changed:
            self.check()
            for one in waiting:
                self._batcher.add(one)
            self.changed.notify_all()

    def call(self, work: Callable[[], Any]) -> "Future[Any]":
        """Done by the lane that is next between two batches. Refusal: not_ready."""
        future: Future[Any] = Future()
        with self.changed:
            self.check()
            self._calls.append((work, future))
            self.changed.notify_all()
        return future

    def beat(self) -> "Future[None]":
        """Done when every lane has been between two batches since. Refusal: not_ready."""
        future: Future[None] = Future()
        with self.changed:
            self.check()
            self._beats = [one for one in self._beats if not one[1].cancelled()]  # of a lane that hangs, asked again and again
            self._beats.append((set(range(len(self.threads))), future))
            self.changed.notify_all()
        return future

    def oldest_s(self) -> float:
        """How long the first in the queue has waited, 0 if none waits."""
        with self.changed:
            since = self._batcher.oldest()
            return 0.0 if since is None else time.monotonic() - since

    def check(self) -> None:
        """Refusal: not_ready, where a lane does not run."""
        if self._closing or not all(thread.is_alive() for thread in self.threads):
            raise Refusal("not_ready", "the compute thread does not run")

    def _run(self, lane: int) -> None:
        while True:
            with self.changed:
                batch, expired, calls = self._take(lane)
                while not (batch or expired or calls or self._closing):
                    self.changed.wait()
                    batch, expired, calls = self._take(lane)
                if self._closing:
                    return
                share = self._begin(lane) if batch else 0
                if len(self._batcher):
                    self.changed.notify_all()  # the next lane's turn has come: it may have looked before this one was busy
            for work, future in calls:
                done(work, future)
            for one in expired:
                one.payload[0].refuse(Refusal("deadline_exceeded", "the time for this answer ran out before its turn came"))
            if batch:
                self._compute(batch, share, lane)
                with self.changed:
                    seconds = self._end(lane)
                    self.changed.notify_all()
                self.took(len(batch), seconds)

    def _compute(self, batch: list[Waiting], share: int, lane: int) -> None:
        """On `share` cores; what has to be exact has all of them, and beside another lane a thread that ends with it."""
        exact = any(one.payload[0].want.deterministic for one in batch)
        cores = self._cores if exact else share

        def work() -> None:
            use_cores(cores)
            settle(batch)

        if lane and cores > share:
            apart(work)  # or torch's helpers would stay, and slow the first lane's
        else:
            work()

    def _take(self, lane: int) -> tuple[list[Waiting], list[Waiting], list[tuple[Callable[[], Any], "Future[Any]"]]]:
        self._beat(lane)
        # The first lane that is free: torch's helpers of the one before would still spin.
        if self._closing or any(other not in self._busy for other in range(lane)):
            return [], [], []
        calls, self._calls = self._calls, []
        return *self._batcher.take(time.monotonic(), len(self._busy), len(self.threads) - len(self._busy)), calls

    def _beat(self, lane: int) -> None:
        for missing, future in self._beats:
            missing.discard(lane)
            if not missing and future.set_running_or_notify_cancel():
                future.set_result(None)
        self._beats = [(missing, future) for missing, future in self._beats if missing]

    def _begin(self, lane: int) -> int:
        """A lane begins a batch; how many cores are its part."""
        now = time.monotonic()
        if not self._busy:
            self._since = now
        self._busy.add(lane)
        if len(self._busy) > 1:
            self._together = now
        alone = len(self._busy) == 1 and len(self._batcher) == 0 and now - self._together > COMPANY_S
        return self._cores if alone or self._batcher.competing(now) else max(1, self._cores // len(self.threads))

    def _end(self, lane: int) -> float:
        now = time.monotonic()
        if len(self._busy) > 1:
            self._together = now
        seconds, self._since = now - self._since, now
        self._busy.remove(lane)
        return seconds


def done(work: Callable[[], Any], future: "Future[Any]") -> None:
    """The future has what `work` gave or raised."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)


def settle(batch: Sequence[Waiting]) -> None:
    """Each image of the batch has its tensors, or its own error; whatever happens, nothing is raised."""
    jobs: list[tuple[Job, int]] = [one.payload for one in batch]
    model: Any = batch[0].model
    for job, _ in jobs:
        job.begin()
    try:
        outcomes = attempt(model, [(job, job.items[index]) for job, index in jobs])  # type: ignore[misc]
        for (job, index), outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                job.fail(index, outcome)
            else:
                job.give(index, outcome)
    except Exception:  # our bug; nobody may wait for ever
        log.exception("a batch could not be settled")
        for job, _ in jobs:
            job.refuse(Refusal("inference_failed", "the model could not compute this request"))


def attempt(model: Runner, jobs: Sequence[tuple[Job, Item]]) -> list[Any]:
    """What each image gave. A batch that fails is run again, once: image by image; out of memory: by halves, to the end."""
    try:
        return model.compute(jobs)
    except Exception as error:
        full = any(words in str(error).lower() for words in OUT_OF_MEMORY) or isinstance(error, MemoryError)
        log.warning("a batch of %d failed in the model: %s", len(jobs), type(error).__name__, exc_info=len(jobs) == 1)
        if len(jobs) == 1:
            return [refusal(error, full)]
    size = -(-len(jobs) // 2) if full else 1
    return [one for start in range(0, len(jobs), size) for one in attempt(model, jobs[start : start + size])]


def refusal(error: Exception, full: bool) -> Refusal:
    """What the client is told of it."""
    if full:
        return Refusal("out_of_memory", "there is not enough memory for this image; send a smaller input", retry_after=1)
    if isinstance(error, InslocError):
        return error if isinstance(error, Refusal) else Refusal("inference_failed", str(error))
    return Refusal("inference_failed", "the model could not compute this image")
