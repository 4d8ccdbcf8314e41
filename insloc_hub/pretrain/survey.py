"""Look at a set of images and at a device: a sample is decoded, a few real steps are taken. Feeds plan.py. [ours]"""

import dataclasses
import math
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from insloc_hub.data.annotations import annotation_sources, read_annotations
from insloc_hub.data.cache import CHANNELS, Pixels, load_pixels
from insloc_hub.data.folder import ImageSet, Sample, read_sample
from insloc_hub.errors import BadData, BadImage, BadRun
from insloc_hub.pretrain.batches import make_batch
from insloc_hub.pretrain.images import SHORT_SIDES
from insloc_hub.pretrain.state import new_state
from insloc_hub.pretrain.step import train_step
from insloc_hub.progress import track
from insloc_hub.recipe import Recipe, at_batch

SAMPLE = 200  # images looked at, evenly spaced in key order
TRIED = 3  # steps timed


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a sample of the images says about all of them."""

    images: int
    looked_at: int
    unreadable: int
    sides: tuple[tuple[int, int], ...]
    """Short and long side of each readable one, pixels."""
    decode_s: float
    """Median seconds to decode one image on one thread."""
    free_bytes: int
    boxes: float | None
    """Mean number per annotated image; None where there are no annotations."""

    @property
    def short_side(self) -> int:
        """Median, pixels."""
        return round(statistics.median(short for short, _ in self.sides))

    def bytes_each(self, canvas: int) -> float:
        """Mean size of an image in memory, reduced as for this canvas."""
        most = SHORT_SIDES * canvas
        return statistics.mean(CHANNELS * short * long * min(1.0, most / short) ** 2 for short, long in self.sides)

    def sentence(self) -> str:
        """What was seen."""
        boxes = "no boxes beside them" if self.boxes is None else f"{self.boxes:.1f} boxes an annotated image"
        return (
            f"{self.images:,} images; of {self.looked_at} looked at, the median short side is {self.short_side} px, the median "
            f"decode takes {self.decode_s * 1000:.1f} ms; {boxes}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A few steps on a device; medians."""

    device: str
    batch: int
    halved: bool
    """Whether a larger batch did not fit into its memory."""
    step_s: float
    make_s: float

    @property
    def loop_s(self) -> float:
        """Of a step in the loop, where the next batch is made beside it."""
        return max(self.step_s, self.make_s)


def look_at(images: ImageSet, data: Path) -> Survey:
    """Decode up to `SAMPLE` of the images, evenly spaced. BadData: fewer than 2 can be read; boxes that are malformed."""
    count = min(SAMPLE, len(images))
    sides, seconds, last = [], [], ""
    with track("look at images", count) as progress:
        for sample in evenly(images, count):
            start = time.perf_counter()
            try:
                h, w = read_sample(sample).shape[1:]
            except BadImage as error:
                last = f", e.g. {error}"
            else:
                seconds.append(time.perf_counter() - start)
                sides.append((min(h, w), max(h, w)))
            progress.advance()
    if len(sides) < 2:
        problem = f"of {count} images looked at {count - len(sides)} can't be read{last}"
        raise BadData(images.root, f"{problem}; pretraining tells instances apart, so it needs at least 2")
    boxes = boxes_per_image(data)
    return Survey(
        images=len(images),
        looked_at=count,
        unreadable=count - len(sides),
        sides=tuple(sides),
        decode_s=statistics.median(seconds),
        free_bytes=free_memory(),
        boxes=boxes,
    )


def evenly(images: ImageSet, count: int) -> tuple[Sample, ...]:
    """`count` of the samples, evenly spaced in key order."""
    return tuple(images.samples[number * len(images) // count] for number in range(count))


def boxes_per_image(data: Path) -> float | None:
    """Mean number of boxes of the annotated images of a data folder; None where there are no annotations. BadData."""
    sources = annotation_sources(data)
    kinds = set(sources.values())
    if len(kinds) != 1:
        return None
    boxes = read_annotations(data, list(sources), kinds.pop()).boxes
    return statistics.mean(len(rows) for rows in boxes.values()) if boxes else None


def free_memory() -> int:
    """Bytes that a new process may take."""
    try:
        with open("/proc/meminfo", encoding="ascii") as facts:
            return next(1024 * int(line.split()[1]) for line in facts if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def try_steps(images: ImageSet, recipe: Recipe, device: torch.device) -> Trial:
    """Time real steps on real composites; where the batch does not fit into the device's memory, half of it. BadRun."""
    count = min(SAMPLE, len(images))
    few = dataclasses.replace(images, samples=evenly(images, count))
    pixels = load_pixels(few, SHORT_SIDES * recipe.canvas, math.inf)
    pixels.settle(recipe.canvas, math.inf, count)
    asked = recipe.batch
    while True:
        try:
            step_s, make_s = _time(pixels, recipe, device)
        except torch.OutOfMemoryError:
            if recipe.batch < 16:
                raise BadRun(
                    f"{recipe.arch} at {recipe.canvas} px does not fit into the memory of {device}, even in batches of "
                    f"{recipe.batch}; take a smaller --arch or --canvas"
                ) from None
            torch.cuda.empty_cache()
            recipe = at_batch(recipe, recipe.batch // 2 // 8 * 8)
            continue
        halved = recipe.batch < asked
        return Trial(device=str(device), batch=recipe.batch, halved=halved, step_s=step_s, make_s=make_s)


def _time(pixels: Pixels, recipe: Recipe, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step and of making a batch, the first of each not counted."""
    state = new_state(dataclasses.replace(recipe, init="random"), device)
    steps, makes = [], []
    with track("try steps", TRIED + 1, "steps") as progress:
        for step in range(TRIED + 1):
            start = time.perf_counter()
            batch = make_batch(pixels, recipe, step, device)
            made = time.perf_counter()
            float(train_step(state, batch, 0.0).loss)  # waits for the device
            steps.append(time.perf_counter() - made)
            makes.append(made - start)
            progress.advance()
    return statistics.median(steps[1:]), statistics.median(makes[1:])
