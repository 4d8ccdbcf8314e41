"""A model on its one compute thread. Knows no HTTP: `submit(images, boxes, want)` gives a Future of an Answer.

Images are made into network inputs, and boxes checked, on the caller's thread: what is queued can be computed, and
whatever fails fails alone. The thread takes what waits as soon as it is free, no timer, and outlives any request.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from insloc_hub.errors import InslocError
from insloc_hub.models.extractor import Extractor, Forward, check_outputs, default_transform, same_shape
from insloc_hub.models.spec import parse_spec
from insloc_hub.shapes import Float, UInt8
from insloc_server.limits import check_input
from insloc_server.outputs import FLOAT_BYTES, OUTPUTS, Sizes, check_answer
from insloc_server.problems import Refusal
from insloc_server.regions import Regions, count_boxes, place_boxes
from insloc_server.settings import Settings

log = logging.getLogger(__name__)

SMOOTHING = 0.2  # share of the newest batch in the running time per image, from which Retry-After is told
LONGEST_RETRY_S = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """What is asked of a request's images; made by `Engine.want`."""

    outputs: tuple[str, ...]
    """In the order of OUTPUTS."""
    transform: str
    stride: int
    float_bytes: int = FLOAT_BYTES["safetensors"]
    """What a number takes in the answer, for its limit."""

    @property
    def needs_map(self) -> bool:
        """Whether an output is taken from the map, so that the stride means something."""
        return any(OUTPUTS[name].needs_map for name in self.outputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One image, ready to compute."""

    input: Float[Tensor, "3 h w"]
    size_wh: tuple[int, int]
    """Of the upright image."""
    regions: Regions | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a request gave: per image its facts and its tensors by output, on the CPU."""

    want: Want
    items: tuple[Item, ...]
    tensors: tuple[dict[str, Tensor], ...]
    queued_s: float
    infer_s: float


def model_id(spec: str) -> str:
    """The model's name on this server: the spec, or the folder's or file's own name where that is a path.

    >>> model_id("random:resnet18@3")
    'random:resnet18@3'
    """
    parsed = parse_spec(spec)
    if parsed.kind == "checkpoint":
        return Path(parsed.name).stem
    if parsed.kind != "folder":
        return spec
    folder = Path(parsed.name).resolve()
    return folder.parent.name if folder.name == "model" else folder.name


class Place:
    """Room for a request's images, taken before they are decoded; `release` gives it back, once."""

    def __init__(self, engine: "Engine", images: int) -> None:
        self.engine = engine
        self.images = images

    def release(self) -> None:
        """Give the room back; a second time does nothing."""
        with self.engine.changed:
            self.engine.in_work -= self.images
            self.images = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A request in the queue."""

    items: tuple[Item, ...]
    want: Want
    future: "Future[Answer]"
    since: float = field(default_factory=time.monotonic)


class Engine:
    """An extractor, its queue and its thread. `start` it, `close` it; between the two it serves any thread."""

    def __init__(self, extractor: Extractor, settings: Settings) -> None:
        self.extractor = extractor
        self.name = model_id(extractor.spec)  # once: the folder may be gone tomorrow
        self.settings = settings
        self.changed = threading.Condition()
        self.in_work = 0
        self.pooled = 0
        self.warm: Future[None] = Future()
        self._jobs: deque[Job] = deque()
        self._pings: list[Future[None]] = []
        self._seconds_per_image = 0.1
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="insloc-compute")

    def start(self) -> None:
        """Start the thread; its first work is a warm-up forward, whose outcome is `warm`."""
        self._thread.start()

    def close(self) -> None:
        """End the thread after the job it is at; what still waits is refused."""
        with self.changed:
            self._closing = True
            waiting = [job.future for job in self._jobs] + self._pings
            self._jobs.clear()
            self._pings = []
            self.changed.notify_all()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(Refusal("not_ready", "the server is stopping"))
        if self._thread.ident is not None:
            self._thread.join()

    def want(
        self,
        outputs: Sequence[str] | None,
        transform: str | None,
        stride: int | None,
        has_boxes: bool,
        encoding: str = "safetensors",
    ) -> Want:
        """Defaults filled in, names checked. InslocError, Refusal: no such output, transform or stride, or none to pool."""
        asked = tuple(outputs) if outputs is not None else (("pooled", "regions") if has_boxes else ("pooled",))
        check_outputs(asked, has_boxes)
        ordered = tuple(name for name in OUTPUTS if name in asked)
        if has_boxes and "regions" not in ordered:
            raise Refusal("bad_request", "there are boxes, but the output 'regions' is not asked for")
        name = transform if transform is not None else default_transform(ordered)
        self.extractor.transform(name)
        at = stride if stride is not None else self.extractor.default_stride
        if at not in self.extractor.channels:
            known = sorted(self.extractor.channels)
            raise Refusal("bad_request", f"{self.extractor.arch} has no map of stride {at}; it has {known}")
        return Want(outputs=ordered, transform=name, stride=at, float_bytes=FLOAT_BYTES[encoding])

    def take_place(self, images: int) -> Place:
        """Room for `images`; an empty house takes any number. Refusal: overloaded, with `retry_after`."""
        with self.changed:
            if self.in_work and self.in_work + images > self.settings.queue_images:
                seconds = self.in_work * self._seconds_per_image
                retry = min(LONGEST_RETRY_S, max(1, round(seconds)))
                raise Refusal("overloaded", f"{self.in_work} images are in work; try again in {retry} s", retry_after=retry)
            self.in_work += images
        return Place(self, images)

    def submit(
        self, images: Iterable[UInt8[Tensor, "3 _ _"]], boxes: Any, want: Want, place: Place | None = None
    ) -> "Future[Answer]":
        """Queue upright images, taken from the iterable one by one, with one list of boxes each (or None for all).

        With a `place` the number of images is its; it stays the caller's to release. Without one, room is taken here and
        given back when the future is done. Refusal: before the queue, and nothing is queued.
        """
        if not self._thread.is_alive():
            raise Refusal("not_ready", "the compute thread does not run")
        self.warm.result()
        items = tuple(self._items(images, boxes, want, None if place is None else place.images))
        self._check_sizes(items, want)
        future: Future[Answer] = Future()
        own = self.take_place(len(items)) if place is None else None
        if own is not None:
            future.add_done_callback(lambda _: own.release())
        with self.changed:
            if self._closing or not self._thread.is_alive():
                future.cancel()
                raise Refusal("not_ready", "the server is starting or stopping")
            self._jobs.append(Job(items=items, want=want, future=future))
            self.changed.notify_all()
        return future

    def ping(self) -> "Future[None]":
        """Done when the thread is next between two jobs. Refusal: not_ready, where it can't come to be."""
        if not self._thread.is_alive():
            raise Refusal("not_ready", "the compute thread does not run")
        if self.warm.done():
            self.warm.result()
        future: Future[None] = Future()
        with self.changed:
            self._pings.append(future)
            self.changed.notify_all()
        return future

    def oldest_s(self) -> float:
        """Age of the request that has waited longest, 0 if none waits."""
        with self.changed:
            return time.monotonic() - self._jobs[0].since if self._jobs else 0.0

    def _items(self, images: Iterable[Tensor], boxes: Any, want: Want, count: int | None) -> Iterable[Item]:
        if boxes is not None and count is None:
            images = list(images)
            count = len(images)
        rows = None if boxes is None else count_boxes(boxes, count or 0, self.settings)
        transform = self.extractor.transform(want.transform)
        made = 0
        for index, image in enumerate(images):
            size_wh = (int(image.shape[2]), int(image.shape[1]))
            check_input(want.transform, size_wh, self.settings)
            given, affine = self.extractor.prepare(image, transform)
            made += given.shape[1] * given.shape[2]
            if made > self.settings.max_request_input_pixels:
                limit = self.settings.max_request_input_pixels
                raise Refusal("bad_request", f"the network inputs have over {limit:,} pixels; send fewer images", limit=limit)
            input_wh = (int(given.shape[2]), int(given.shape[1]))
            regions = None if rows is None else place_boxes(rows[index], index, size_wh, affine, input_wh)
            yield Item(input=given, size_wh=size_wh, regions=regions)

    def _check_sizes(self, items: Sequence[Item], want: Want) -> None:
        channels = self.extractor.channels[want.stride]
        sizes = [
            Sizes(
                pooled=self.pooled,
                channels=channels,
                cells=-(-item.input.shape[1] // want.stride) * -(-item.input.shape[2] // want.stride),
                boxes=0 if item.regions is None else len(item.regions.clipped),
            )
            for item in items
        ]
        check_answer(want.outputs, sizes, want.float_bytes, self.settings.max_answer_bytes)

    def _run(self) -> None:
        try:
            h, w = self.extractor.facts.size
            warm = self.extractor.forward(torch.zeros(1, 3, h, w), sorted(self.extractor.channels), pooled=True)
            self.pooled = int(warm.pooled.shape[1]) if warm.pooled is not None else 0
            self.warm.set_result(None)
        except Exception as error:
            log.exception("the warm-up forward failed")
            self.warm.set_exception(Refusal("not_ready", f"the model does not run: {type(error).__name__}"))
            return
        while (job := self._next()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue  # the client went away while it waited
            try:
                job.future.set_result(self._compute(job))
            except Exception as error:
                log.exception("a request failed in the model")
                known = error if isinstance(error, InslocError) else None
                job.future.set_exception(known or Refusal("inference_failed", "the model could not compute this request"))

    def _next(self) -> Job | None:
        with self.changed:
            while True:
                for future in self._pings:
                    if future.set_running_or_notify_cancel():
                        future.set_result(None)
                self._pings = []
                if self._closing:
                    return None
                if self._jobs:
                    return self._jobs.popleft()
                self.changed.wait()

    def _compute(self, job: Job) -> Answer:
        start = time.monotonic()
        want = job.want
        tensors: list[dict[str, Tensor]] = [{} for _ in job.items]
        for group in same_shape([tuple(item.input.shape) for item in job.items]):
            for first in range(0, len(group), self.settings.batch_images):
                batch = group[first : first + self.settings.batch_images]
                forward = self._forward([job.items[i].input for i in batch], want)
                for position, i in enumerate(batch):
                    for name in want.outputs:
                        taken = OUTPUTS[name].take(forward, position, want.stride, job.items[i].regions)
                        tensors[i][name] = taken.cpu().clone()  # of its own: a view would keep the whole batch
        if not all(bool(tensor.isfinite().all()) for one in tensors for tensor in one.values()):
            raise Refusal("inference_failed", "the model gave values that are no finite numbers")
        taken_s = time.monotonic() - start
        self._seconds_per_image += SMOOTHING * (taken_s / len(job.items) - self._seconds_per_image)
        return Answer(want=want, items=job.items, tensors=tuple(tensors), queued_s=start - job.since, infer_s=taken_s)

    def _forward(self, inputs: Sequence[Tensor], want: Want) -> Forward:
        strides = [want.stride] if want.needs_map else []
        return self.extractor.forward(torch.stack(list(inputs)), strides, pooled="pooled" in want.outputs)
