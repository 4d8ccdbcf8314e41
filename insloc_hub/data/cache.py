"""The pixels of a data set, decoded once and kept in memory as long as they fit.

Images are reduced on load to a short side of `short_side` (antialiased): a departure from the release, which decodes
full photographs three times per sample; what a 256 px canvas can show of a larger image stays the same.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from insloc_hub.data.folder import ImageSet, Sample, read_sample
from insloc_hub.data.transform import resize
from insloc_hub.errors import BadData, BadImage
from insloc_hub.shapes import UInt8

THREADS = 2  # Pillow's decoders release the interpreter lock; more than the cores of a laptop gains nothing
BATCH = 64  # images per round of the pool: bounds what is decoded ahead


class Pixels:
    """`pixels[i]` is image i as uint8 [3 h w], the same whether it is kept in memory or decoded again."""

    def __init__(self, images: ImageSet, short_side: int, kept: dict[int, Tensor], bad: dict[str, str]) -> None:
        self.images = images
        self.short_side = short_side
        self.kept = kept
        """Index -> the images in memory."""
        self.bad = bad
        """Key -> what is wrong with that image; these are not in `images`."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        if index in self.kept:
            return self.kept[index]
        return _load(self.images.samples[index], self.short_side)


def load_pixels(
    images: ImageSet, short_side: int, budget_bytes: int, advance: Callable[[int], None] = lambda n: None
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


def _try(sample: Sample, short_side: int) -> Tensor | BadImage:
    try:
        return _load(sample, short_side)
    except BadImage as error:
        return error


def _load(sample: Sample, short_side: int) -> Tensor:
    image = read_sample(sample)
    h, w = image.shape[1:]
    if min(h, w) <= short_side:
        return image
    scale = short_side / min(h, w)
    return torch.as_tensor(resize(image, (max(1, round(h * scale)), max(1, round(w * scale)))))
