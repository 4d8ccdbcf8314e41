"""The pixels of a data set: decoded once and kept as 8 bit where memory allows, else decoded when they are needed.

Images are reduced on load to a short side of `short_side` (antialiased): a departure from the release, which decodes
full photographs three times per sample; what a 256 px canvas can show of a larger image stays the same.

Where not everything is kept, a background drawn from the whole set would cost a decode of its own. Then backgrounds come
from the images seen last (contracts.md 12), of which a square copy is kept: one decode per sample.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from insloc_hub.data.folder import ImageSet, Sample, read_sample
from insloc_hub.data.transform import resize, resize_plain
from insloc_hub.errors import BadData, BadImage
from insloc_hub.shapes import UInt8

THREADS = 2  # the decoders release the interpreter lock; more than the cores of a laptop gains nothing
BATCH = 64  # images per round of the pool: bounds what is decoded ahead
CHANNELS = 3


class Pixels:
    """`pixels[i]` is image i as uint8 [3 h w], the same whether it is kept in memory or decoded again."""

    def __init__(self, images: ImageSet, short_side: int, kept: dict[int, Tensor], bad: dict[str, str]) -> None:
        self.images = images
        self.short_side = short_side
        self.kept = kept
        """Index -> the images in memory."""
        self.bad = bad
        """Key -> what is wrong with that image; these are not in `images`."""
        self.pool: int | None = None
        """Backgrounds come from this many images seen last; None = from all. A property of the run."""
        self.device = torch.device("cpu")
        self._squares: dict[int, Tensor] = {}
        self._side = 0
        self._most = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        if index in self.kept:
            return self.kept[index]
        return _load(self.images.samples[index], self.short_side)

    def many(self, indices: Iterable[int]) -> list[UInt8[Tensor, "3 _ _"]]:
        """`pixels[i]` of each index. What had to be decoded leaves its square behind."""
        wanted = list(indices)
        found = {index: self.kept[index] for index in wanted if index in self.kept}
        missing = [index for index in dict.fromkeys(wanted) if index not in found]
        for index, image in zip(missing, _each(self.__getitem__, missing), strict=True):
            found[index] = image
            if self._most:
                self._keep_square(index, resize_plain(image, (self._side, self._side)))
        return [found[index] for index in wanted]

    def backgrounds(self, indices: Iterable[int], side: int) -> list[UInt8[Tensor, "3 _ _"]]:
        """What composites of side x side are pasted on: squares (paper.md A.1.2), or whole images on an accelerator."""
        return [self._square(index, side) if self.device.type == "cpu" else self[index] for index in indices]

    def settle(self, side: int, budget_bytes: float, pool: int) -> None:
        """Decide where backgrounds of side x side come from, and keep their squares.

        All images kept, or no more of them than the pool holds: from all of them, and the rest of the budget is for squares.
        Else from the `pool` images seen last, whose squares always stay; kept images make room for them.
        """
        square = CHANNELS * side * side
        spare = budget_bytes - self.nbytes()
        whole = len(self.kept) == len(self)
        while not whole and self.kept and spare < pool * square:
            spare += self.kept.popitem()[1].numel()
        fitting = len(self) if spare >= len(self) * square else int(max(spare, 0) // square)
        self.pool = None if whole or len(self) <= pool else pool
        self._side, self._most, self._squares = side, fitting if whole else max(fitting, pool), {}

    def to(self, device: torch.device) -> None:
        """Move the images to a device: views are then composed there. Only where all of them are kept."""
        if len(self.kept) < len(self):
            raise ValueError(f"{len(self) - len(self.kept)} images are not in memory, so they can't be moved")
        self.kept = {index: image.to(device) for index, image in self.kept.items()}
        self.device, self._squares = device, {}

    def nbytes(self) -> int:
        """Of the images kept, without squares."""
        return sum(image.numel() for image in self.kept.values())

    def _square(self, index: int, side: int) -> Tensor:
        ours = side == self._side and self._most > 0
        if ours and (kept := self._squares.get(index)) is not None:
            return kept
        square = resize_plain(self[index], (side, side))  # aspect not kept, plain bilinear
        if ours:
            self._keep_square(index, square)
        return square

    def _keep_square(self, index: int, square: Tensor) -> None:
        with self._lock:
            self._squares[index] = self._squares.pop(index, square)
            while len(self._squares) > self._most:
                del self._squares[next(iter(self._squares))]


def load_pixels(
    images: ImageSet, short_side: int, budget_bytes: float, advance: Callable[[int], None] = lambda n: None
) -> Pixels:
    """Decode every image once; drop, count and name those that can't be read. BadData: fewer than 2 are left.

    `advance(n)` is told after every n images. What is over the budget is decoded again whenever it is needed.
    """
    good: list[Sample] = []
    bad: dict[str, str] = {}
    kept: dict[int, Tensor] = {}
    left = budget_bytes
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(images), BATCH):
            samples = images.samples[start : start + BATCH]
            for sample, outcome in zip(samples, pool.map(lambda s: _try(s, short_side), samples), strict=True):
                if isinstance(outcome, BadImage):
                    bad[sample.key] = str(outcome)
                    continue
                if outcome.numel() <= left:
                    left -= outcome.numel()
                    kept[len(good)] = outcome
                good.append(sample)
            advance(len(samples))
    if len(good) < 2:
        first = f"; e.g. {next(iter(bad.values()))}" if bad else ""
        problem = f"pretraining tells instances apart, so it needs at least 2 readable images; {len(good)} of {len(images)} are"
        raise BadData(images.root, problem + first)
    return Pixels(ImageSet(root=images.root, samples=tuple(good), classes=images.classes), short_side, kept, bad)


def _each(work: Callable[[int], Tensor], items: list[int]) -> list[Tensor]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(THREADS, len(items), cores)
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def _try(sample: Sample, short_side: int) -> Tensor | BadImage:
    try:
        return _load(sample, short_side)
    except BadImage as error:
        return error


def _load(sample: Sample, short_side: int) -> Tensor:
    image = read_sample(sample, at_least=short_side)
    h, w = image.shape[1:]
    if min(h, w) <= short_side:
        return image
    scale = short_side / min(h, w)
    reduced = resize(image, (max(1, round(h * scale)), max(1, round(w * scale))))
    # In memory pixel by pixel, as decoded: a crop of it is then resized in half the time.
    return reduced.permute(1, 2, 0).contiguous().permute(2, 0, 1)
