"""A request on its way through the engine: what is wanted, its images made ready, and what becomes of each."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from insloc_hub.shapes import Float
from insloc_server.outputs import FLOAT_BYTES, OUTPUTS
from insloc_server.problems import Refusal
from insloc_server.regions import Regions


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """What is asked of a request's images; made by `Engine.want`."""

    outputs: tuple[str, ...]
    """In the order of OUTPUTS."""
    transform: str
    stride: int
    float_bytes: int = FLOAT_BYTES["safetensors"]
    """What a number takes in the answer, for its limit."""
    partial: bool = False
    """Whether an image that fails leaves the others their answer; else the request fails with it."""
    deterministic: bool = False
    """Each image alone, through the plain model: bit for bit what the library computes."""

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
    """What a request gave, per image in its order: facts, tensors by output on the CPU, or the refusal in their place."""

    want: Want
    items: tuple[Item | None, ...]
    tensors: tuple[dict[str, Tensor], ...]
    errors: tuple[Refusal | None, ...]
    """With `partial`; else nothing but None."""
    queued_s: float
    infer_s: float


class Job:
    """A request's images in the queue, in their order, and what they have given so far. Items: a Refusal failed before it.

    The future stays pending until the end, so that it can be cancelled as long as anybody would do work for it.
    """

    def __init__(self, items: tuple[Item | Refusal, ...], want: Want) -> None:
        self.want = want
        self.items = tuple(None if isinstance(item, Refusal) else item for item in items)
        self.future: Future[Answer] = Future()
        self.since = time.monotonic()
        self._errors: list[Refusal | None] = [item if isinstance(item, Refusal) else None for item in items]
        self._tensors: list[dict[str, Tensor]] = [{} for _ in items]
        self._left = sum(item is not None for item in self.items)
        self._began: float | None = None
        self._lock = threading.Lock()  # lanes may be at the same request
        if self._left == 0:
            self._finish()

    def begin(self) -> None:
        """An image of it is being computed."""
        if self._began is None:
            self._began = time.monotonic()

    def give(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Image `index` is computed."""
        self._tensors[index] = tensors
        self._one_less()

    def fail(self, index: int, error: Refusal) -> None:
        """Image `index` can't be computed; unless the request takes what there is, it ends here."""
        refusal = Refusal(error.code, error.detail, **{**error.facts, "index": index})
        if self.want.partial:
            self._errors[index] = refusal
            self._one_less()
        else:
            self.refuse(refusal)

    def refuse(self, error: Refusal) -> None:
        """The request as a whole fails, unless it is done."""
        with self._lock:
            if not self.future.done() and self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)

    def _one_less(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._finish()

    def _finish(self) -> None:
        now = time.monotonic()
        began = now if self._began is None else self._began
        answer = Answer(
            want=self.want,
            items=self.items,
            tensors=tuple(self._tensors),
            errors=tuple(self._errors),
            queued_s=began - self.since,
            infer_s=now - began,
        )
        with self._lock:
            if not self.future.done() and self.future.set_running_or_notify_cancel():
                self.future.set_result(answer)
