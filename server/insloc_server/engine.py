"""A model and what it takes to use it. Knows no HTTP: `submit(images, boxes, want)` gives a Future of an Answer.

Images are made into network inputs, and boxes checked, on the caller's thread: what is queued can be computed. From
there on every image goes its own way, in whatever company is there (batcher.py), on the device's thread (compute.py).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from insloc_hub.models.extractor import Extractor, check_outputs, default_transform
from insloc_hub.models.spec import parse_spec
from insloc_hub.shapes import UInt8
from insloc_server.batcher import Batcher, Waiting
from insloc_server.compute import Compute
from insloc_server.engines import Forwarder, make_forwarder
from insloc_server.jobs import Answer, Item, Job, Want
from insloc_server.limits import check_input
from insloc_server.outputs import FLOAT_BYTES, OUTPUTS, Sizes, check_answer
from insloc_server.problems import Refusal, refusal_of
from insloc_server.regions import count_boxes, place_boxes
from insloc_server.room import Place, Room
from insloc_server.settings import Settings

log = logging.getLogger(__name__)

FLOOR_IMAGES = 16  # at least these get in at first, or two batches (room.py; serving.md 3)
CPU_BATCH, BATCH = 4, 8  # on a CPU more together take no less time each (docs/speed.md), and are all done as late as the last


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


def new_compute(device: torch.device, settings: Settings) -> Compute:
    """The lanes of a device, with their queue."""
    on_cpu = device.type == "cpu"
    cores = torch.get_num_threads()
    lanes = settings.lanes or (2 if on_cpu and cores > 1 else 1)
    return Compute(Batcher(batch_images(device, settings), joint=not on_cpu), lanes, cores)


def batch_images(device: torch.device, settings: Settings) -> int:
    """Most images of a forward."""
    return settings.batch_images or (CPU_BATCH if device.type == "cpu" else BATCH)


class Engine:
    """An extractor, the room before it and the lanes that it shares with the other models of its device.

    `start` it, `close` it; between the two it serves any thread. One `beside` another has that one's room and thread, and
    is neither started nor closed: it needs its `warm_up` alone.
    """

    def __init__(
        self,
        extractor: Extractor,
        settings: Settings,
        forwarder: Forwarder | None = None,
        beside: "Engine | None" = None,
    ) -> None:
        self.extractor = extractor
        self.forwarder = forwarder or make_forwarder(extractor, settings.engine)
        self.name = model_id(extractor.spec)  # once: the folder may be gone tomorrow
        self.settings = settings
        floor = max(FLOOR_IMAGES, 2 * batch_images(extractor.device, settings))
        self.room: Room = Room(settings.queue_images, settings.queue_bytes, floor) if beside is None else beside.room
        self.pooled = 0
        self.warm: Future[None] = Future()
        self._compute: Compute = new_compute(extractor.device, settings) if beside is None else beside._compute
        if beside is None:
            self.watch_batches(lambda images: None)

    def start(self) -> None:
        """Start the lanes; their first work is a warm-up forward, whose outcome is `warm`."""
        self._compute.start()
        self.warm = self._compute.call(self._warm_up)

    def warm_up(self) -> None:
        """The warm-up forward on this thread, for a model whose device's thread has others to serve. Refusal: not_ready."""
        self._warm_up()
        self.warm.set_result(None)

    def watch_batches(self, took: Callable[[int], object]) -> None:
        """Tell `took` the number of images of each batch, of all models of the device."""

        def paced(images: int, seconds: float) -> None:
            self.room.pace.took(seconds, images)
            took(images)

        self._compute.took = paced

    def close(self) -> None:
        """End the lanes after the batches they are at; what still waits is refused."""
        self._compute.close()

    @property
    def size(self) -> int:
        """Bytes of the weights; a graph of another engine has its own beside the plain model's."""
        state = self.extractor.model.state_dict().values()
        weights = sum(int(tensor.nbytes) for tensor in state)
        return weights if self.forwarder.name == "eager" else 2 * weights

    @property
    def in_work(self) -> int:
        """Images in the house: being decoded, waiting, computed or answered."""
        return self.room.in_work.images

    def oldest_s(self) -> float:
        """Age of the image that has waited longest, 0 if none waits."""
        return self._compute.oldest_s()

    def want(
        self,
        outputs: Sequence[str] | None,
        transform: str | None,
        stride: int | None,
        has_boxes: bool,
        encoding: str = "safetensors",
        *,
        partial: bool = False,
        deterministic: bool = False,
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
        size = FLOAT_BYTES[encoding]
        return Want(outputs=ordered, transform=name, stride=at, float_bytes=size, partial=partial, deterministic=deterministic)

    def take_place(self, images: int, client: str = "", within_s: float | None = None) -> Place:
        """Room for `images` of `client`, to be answered within `within_s` (by default and at most the settings').

        An empty house takes any number. Refusal: overloaded or rate_limited, with `retry_after`.
        """
        asked = self.settings.deadline_s if within_s is None else min(within_s, self.settings.max_deadline_s)
        return self.room.take(images, client, asked)

    def submit(
        self,
        images: Iterable[UInt8[Tensor, "3 _ _"] | Refusal],
        boxes: Any,
        want: Want,
        place: Place | None = None,
    ) -> "Future[Answer]":
        """Queue upright images, taken from the iterable one by one, with one list of boxes each (or None for all).

        An image may be the Refusal of its decoding; with `want.partial` it keeps its index, else it is raised. With a
        `place` (whose are the number of images, the client and the deadline) it stays the caller's to release. Without
        one, room is taken here and given back when the future is done. Refusal: before the queue, and nothing is queued.
        """
        if place is None:
            images = list(images)
            own = self.take_place(len(images))
            try:
                future = self.submit(images, boxes, want, own)
            except BaseException:
                own.release()
                raise
            future.add_done_callback(lambda _: own.release())
            return future
        if place.images == 0:
            raise Refusal("bad_request", "there are no images")
        return self.queue(list(self.prepare(images, boxes, want, place)), want, place)

    def prepare(
        self, images: Iterable[UInt8[Tensor, "3 _ _"] | Refusal], boxes: Any, want: Want, place: Place
    ) -> Iterator[Item | Refusal]:
        """The first part of `submit`, image by image as it is asked: network inputs and checked boxes. Refusal."""
        self._compute.check()
        self.warm.result()
        rows = None if boxes is None else count_boxes(boxes, place.images, self.settings)
        pixels = 0
        for index, image in enumerate(images):
            try:
                if isinstance(image, Refusal):
                    raise image
                item = self._item(image, index, None if rows is None else rows[index], want)
            except Exception as error:
                if not want.partial:
                    raise
                yield refusal_of(error)
                continue
            place.grow(item.input.nbytes)
            pixels += item.input.shape[1] * item.input.shape[2]
            if pixels > self.settings.max_request_input_pixels:
                limit = self.settings.max_request_input_pixels
                raise Refusal("bad_request", f"the network inputs have over {limit:,} pixels; send fewer images", limit=limit)
            yield item

    def queue(self, items: Sequence[Item | Refusal], want: Want, place: Place) -> "Future[Answer]":
        """The second part of `submit`, with all that `prepare` gave; it takes no time. Refusal: answer_too_large, not_ready."""
        job = Job(tuple(items), want)
        self._check_sizes([item for item in job.items if item is not None], want)
        self._compute.add(self._waiting(job, place))
        if not place.held:  # whoever asked has gone while we decoded
            job.future.cancel()
        return job.future

    def ping(self) -> "Future[None]":
        """Done when each lane has been between two batches. Refusal: not_ready, where it can't come to be."""
        if self.warm.done():
            self.warm.result()
        return self._compute.beat()

    def compute(self, jobs: Sequence[tuple[Job, Item]]) -> list[dict[str, Tensor] | Refusal]:
        """What each image gave; all have inputs of one shape and want the same of the network. For the lanes only."""
        want = jobs[0][0].want
        strides = [want.stride] if want.needs_map else []
        inputs = torch.stack([item.input for _, item in jobs])
        computed_by = self.extractor.forward if want.deterministic else self.forwarder.forward
        forward = computed_by(inputs, strides, "pooled" in want.outputs)
        outcomes: list[dict[str, Tensor] | Refusal] = []
        for position, (job, item) in enumerate(jobs):
            taken = {
                # Of its own: a view would keep the whole batch.
                name: OUTPUTS[name].take(forward, position, want.stride, item.regions).cpu().clone()
                for name in job.want.outputs
            }
            finite = all(bool(tensor.isfinite().all()) for tensor in taken.values())
            outcomes.append(
                taken if finite else Refusal("inference_failed", "the model gave values that are no finite numbers")
            )
        return outcomes

    def _waiting(self, job: Job, place: Place) -> list[Waiting]:
        want = job.want
        computed = (want.stride if want.needs_map else None, "pooled" in want.outputs)
        return [
            Waiting(
                model=self,
                client=place.client,
                key=object() if want.deterministic else (tuple(item.input.shape), computed),
                since=job.since,
                expires=place.expires,
                gone=job.future.done,
                payload=(job, index),
            )
            for index, item in enumerate(job.items)
            if item is not None
        ]

    def _item(self, image: Tensor, index: int, rows: list[Any] | None, want: Want) -> Item:
        size_wh = (int(image.shape[2]), int(image.shape[1]))
        check_input(want.transform, size_wh, self.settings)
        given, affine = self.extractor.prepare(image, self.extractor.transform(want.transform))
        input_wh = (int(given.shape[2]), int(given.shape[1]))
        regions = None if rows is None else place_boxes(rows, index, size_wh, affine, input_wh)
        return Item(input=given, size_wh=size_wh, regions=regions)

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

    def _warm_up(self) -> None:
        h, w = self.extractor.facts.size
        try:
            warm = self.forwarder.forward(torch.zeros(1, 3, h, w), sorted(self.extractor.channels), True)
        except Exception as error:
            log.exception("the warm-up forward failed")
            raise Refusal("not_ready", f"the model does not run: {type(error).__name__}") from None
        self.pooled = int(warm.pooled.shape[1]) if warm.pooled is not None else 0
