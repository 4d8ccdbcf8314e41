"""The one thread of a device: takes the next batch as soon as it is free, hands it to its model, and outlives all of it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from insloc_hub.errors import InslocError
from insloc_server.batcher import Batcher, Waiting
from insloc_server.jobs import Item, Job
from insloc_server.problems import Refusal

log = logging.getLogger(__name__)

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # torch's words, on CUDA and on the CPU


@runtime_checkable
class Runner(Protocol):
    """A model, as the thread sees it."""

    def compute(self, jobs: Sequence[tuple[Job, Item]]) -> list[Any]:
        """Per image its tensors by output, or the Refusal in their place. Any exception: the batch failed."""


class Compute:
    """A device's thread and its queue. `start` it, `close` it; between the two any thread may `add` and `call`."""

    def __init__(self, batcher: Batcher) -> None:
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="insloc-compute")
        self.took: Callable[[int], object] = lambda images: None
        """Told the size of each batch."""
        self._batcher = batcher
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._closing = False

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def close(self) -> None:
        """End the thread after the batch it is at; what still waits is refused."""
        stopping = Refusal("not_ready", "the server is stopping")
        with self.changed:
            self._closing = True
            waiting, self._calls, calls = self._batcher.clear(), [], self._calls
            self.changed.notify_all()
        for one in waiting:
            one.payload[0].refuse(stopping)
        for _, future in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopping)
        if self.thread.ident is not None:
            self.thread.join()

    def add(self, waiting: Sequence[Waiting]) -> None:
        """Queue images, all or none. Refusal: not_ready."""
        with self.changed:
            self.check()
            for one in waiting:
                self._batcher.add(one)
            self.changed.notify_all()

    def call(self, work: Callable[[], Any]) -> "Future[Any]":
        """Done by the thread when it is next between two batches. Refusal: not_ready."""
        future: Future[Any] = Future()
        with self.changed:
            self.check()
            self._calls.append((work, future))
            self.changed.notify_all()
        return future

    def oldest_s(self) -> float:
        """How long the first in the queue has waited, 0 if none waits."""
        with self.changed:
            since = self._batcher.oldest()
            return 0.0 if since is None else time.monotonic() - since

    def check(self) -> None:
        """Refusal: not_ready, where the thread does not run."""
        if self._closing or not self.thread.is_alive():
            raise Refusal("not_ready", "the compute thread does not run")

    def _run(self) -> None:
        while True:
            with self.changed:
                while not (self._closing or self._calls or len(self._batcher)):
                    self.changed.wait()
                if self._closing:
                    return
                calls, self._calls = self._calls, []
                batch, expired = self._batcher.take(time.monotonic())
            for work, future in calls:
                done(work, future)
            for one in expired:
                one.payload[0].refuse(Refusal("deadline_exceeded", "the time for this answer ran out before its turn came"))
            if batch:
                self.took(len(batch))
                settle(batch)


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
