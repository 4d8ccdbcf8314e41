"""Two normalised views and their boxes per image: the compositor against a per-sample pipeline like the release's.

    INSLOC_DATA=DIR python benchmarks/compose.py

DIR holds coco-mini/ (256 px) and tiny-imagenet/ (128 px); without it the procedural world stands in, and the lines say so.
The other side does what the release does with what the release does it: three OpenCV decodes, two backgrounds and two
crops resized by OpenCV, jitter, grey and blur by Pillow, normalisation by OpenCV; one sample after the other. Ours makes
batches of 32: from encoded bytes (one decode a sample, backgrounds from a pool of squares) and from pixels in memory.

One core, one thread. In alternation: each repeat times all three on the same images in CPU seconds of the process, which
on an idle machine are wall seconds; the ratio of each repeat, its median and a 95 % bootstrap interval.
"""

import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from insloc_hub import paper
from insloc_hub.compositor.blur import blur
from insloc_hub.compositor.colour import apply_colour
from insloc_hub.compositor.geometry import VIEW_UNIFORMS, draw_layout
from insloc_hub.compositor.paste import mirror, paste
from insloc_hub.compositor.views import draw_numbers, make_views, to_input
from insloc_hub.data.cache import Pixels, load_pixels
from insloc_hub.data.decode import decode
from insloc_hub.data.folder import ImageSet, list_images, sample_bytes
from insloc_hub.data.loader import pool_size
from insloc_hub.data.transform import InputFacts, resize_plain
from insloc_hub.demo.world import write
from insloc_hub.recipe import Recipe, at_canvas
from insloc_hub.recipes import insloc_c4_small

BATCH = 32
REPEATS = 40
REACH = {"encoded bytes": 2.5, "pixels in memory": 4.0}
MEAN = np.array([[123.675, 116.28, 103.53]])
STD = np.array([[58.395, 57.12, 57.375]])
CASES = (("coco-mini", 256, 500), ("tiny-imagenet/val", 128, 64))  # data, canvas, size of the world that stands in


def main() -> None:
    """Print a table of stages per case, then one JSON line per case and source."""
    one_core()
    lines = [line for name, canvas, size in CASES for line in case(name, canvas, size)]
    for line in lines:
        print(json.dumps(line))


def one_core() -> None:
    """Everything on one thread of one core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def case(name: str, canvas: int, size: int) -> list[dict[str, object]]:
    """Measure one data set at one canvas."""
    recipe = at_canvas(insloc_c4_small(), canvas)
    with images_of(name, size) as (images, label):
        kept = load_pixels(images, 2 * canvas, 2**32)
        kept.settle(canvas, 2**32, pool_size(BATCH))
        stream = Pixels(kept.images, 2 * canvas, {}, {})
        stream.settle(canvas, 0, pool_size(BATCH))
        stream.many(range(len(stream)))  # a run's pool is full after its first steps,
        kept.backgrounds(range(len(kept)), canvas)  # and all its squares are made after its first epochs
        sides: dict[str, Callable[[list[int], int], object]] = {
            "encoded bytes": ours(stream, recipe),
            "pixels in memory": ours(kept, recipe),
        }
        other = Release([sample_bytes(sample) for sample in kept.images.samples], canvas)
        print(f"\n{label}, canvas {canvas}, {len(kept)} images")
        check(other, sides["pixels in memory"])
        times = alternate([lambda indices, _: other.many(indices), *sides.values()], len(kept))
        stages(kept, recipe, other, times)
    return [
        result(f"{label} at {canvas} px from {source}", times, place + 1, REACH[source]) for place, source in enumerate(sides)
    ]


@contextmanager
def images_of(name: str, size: int) -> Iterator[tuple[ImageSet, str]]:
    """The named data set, or the procedural world in images of about `size` pixels."""
    data = os.environ.get("INSLOC_DATA")
    if data:
        yield list_images(Path(data) / name), name.split("/")[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), seed=0, train_per_class=14, val_per_class=1, size=size)
        yield list_images(Path(folder) / "train"), f"the procedural world in {size} px"


def ours(pixels: Pixels, recipe: Recipe) -> Callable[[list[int], int], object]:
    """The views of a batch as `insloc pretrain` makes them."""
    facts = InputFacts(size=(recipe.canvas, recipe.canvas), mean=paper.PIXEL_MEAN, std=paper.PIXEL_STD)

    def make(indices: list[int], epoch: int) -> object:
        return [(to_input(view, facts), view.boxes) for view in make_views(pixels, len(pixels), indices, epoch, recipe)]

    return make


class Release:
    """The release's pipeline for one sample after the other (paper.md A.1; mmdet and mmcv calls written out)."""

    def __init__(self, encoded: list[bytes], canvas: int) -> None:
        self.encoded = encoded
        self.canvas = canvas
        self.sigma = tuple(value * canvas / paper.CANVAS for value in paper.BLUR_SIGMA)

    def many(self, indices: list[int]) -> list[object]:
        """Two views and boxes of each."""
        return [self.sample(index) for index in indices]

    def sample(self, index: int) -> object:
        """Two views and boxes."""
        others = [random.randrange(len(self.encoded)) for _ in range(2)]
        foreground, *backgrounds = [self.decode(i) for i in (index, *others)]
        made = []
        for background in backgrounds:
            composite, box = self.paste(self.squared(background), foreground)
            made.append(self.finish(self.coloured(composite), box))
        return made

    def decode(self, index: int) -> np.ndarray:
        """[h w 3] BGR."""
        image = cv2.imdecode(np.frombuffer(self.encoded[index], np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return image

    def squared(self, image: np.ndarray) -> np.ndarray:
        """The background at the canvas' size."""
        return cv2.resize(image, (self.canvas, self.canvas), interpolation=cv2.INTER_LINEAR)

    def paste(self, canvas: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A random crop of the image, rescaled, on the canvas; its box."""
        rows, columns = image.shape[:2]
        y, x, h, w = 0, 0, rows, columns
        for _ in range(paper.CROP_TRIES):
            area = random.uniform(*paper.CROP_AREA) * rows * columns
            aspect = np.exp(random.uniform(*np.log(paper.CROP_ASPECT)))
            wide, high = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < wide <= columns and 0 < high <= rows:
                y, x, h, w = random.randint(0, rows - high), random.randint(0, columns - wide), high, wide
                break
        crop = image[y : y + h, x : x + w]
        bounds = [random.randrange(self.canvas // 2, self.canvas - 1) for _ in range(2)]
        scale = min(max(bounds) / max(w, h), min(bounds) / min(w, h))
        w, h = int(w * scale + 0.5), int(h * scale + 0.5)
        y, x = random.randrange(self.canvas - h), random.randrange(self.canvas - w)
        canvas[y : y + h, x : x + w] = cv2.resize(crop, (w, h), interpolation=cv2.INTER_LINEAR)
        return canvas, np.array([[x, y, x + w, y + h]], dtype=np.float32)

    def coloured(self, composite: np.ndarray) -> np.ndarray:
        """Jitter, grey and blur by Pillow; RGB from here on."""
        image = Image.fromarray(cv2.cvtColor(composite, cv2.COLOR_BGR2RGB))
        if random.random() < paper.JITTER_PROBABILITY:
            image = jittered(image)
        if random.random() < paper.GREY_PROBABILITY:
            image = image.convert("L").convert("RGB")
        if random.random() < paper.BLUR_PROBABILITY:
            image = image.filter(ImageFilter.GaussianBlur(random.uniform(*self.sigma)))
        return np.asarray(image)

    def finish(self, image: np.ndarray, box: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Flip, normalise as mmcv.imnormalize, channels first."""
        if random.random() < paper.FLIP_PROBABILITY:
            image = np.flip(image, axis=1)
            box[:, [0, 2]] = self.canvas - box[:, [2, 0]]
        values = image.astype(np.float32)
        cv2.subtract(values, MEAN, values)
        cv2.multiply(values, 1 / STD, values)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))), torch.from_numpy(box)


def jittered(image: Image.Image) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order, as torchvision does it to Pillow images."""
    steps = [
        lambda x: ImageEnhance.Brightness(x).enhance(random.uniform(0.6, 1.4)),
        lambda x: ImageEnhance.Contrast(x).enhance(random.uniform(0.6, 1.4)),
        lambda x: ImageEnhance.Color(x).enhance(random.uniform(0.6, 1.4)),
        lambda x: turned(x, random.uniform(-0.1, 0.1)),
    ]
    for step in random.sample(steps, 4):
        image = step(image)
    return image


def turned(image: Image.Image, turns: float) -> Image.Image:
    """Another hue: 8-bit HSV."""
    hue, saturation, value = image.convert("HSV").split()
    other = np.array(hue, dtype=np.uint8) + np.array(turns * 255).astype(np.int32).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(other), saturation, value)).convert("RGB")


def alternate(sides: list[Callable[[list[int], int], object]], images: int) -> np.ndarray:
    """[repeats sides] CPU seconds per image, the sides after each other in every repeat."""
    random.seed(0)
    order = np.random.default_rng(0)
    times = []
    for repeat in range(-2, REPEATS):
        indices = order.permutation(images)[:BATCH].tolist()
        row = [seconds(partial(side, indices, max(repeat, 0))) for side in sides]
        if repeat >= 0:  # the first ones fill caches
            times.append(row)
    return np.array(times) / BATCH


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def check(other: Release, make: Callable[[list[int], int], object]) -> None:
    """Both sides must make the same kind of views: mean and spread of pixels, area of boxes. SystemExit: they don't."""
    indices = np.random.default_rng(2).choice(len(other.encoded), 400).tolist()
    random.seed(0)
    (query, boxes), _ = make(indices, 0)  # type: ignore[misc]
    theirs = [made[0] for made in other.many(indices)]  # type: ignore[index]
    images, their_boxes = torch.stack([view for view, _ in theirs]), torch.cat([box for _, box in theirs])
    facts = [
        (float(x.mean()), float(x.std()), float(((b[:, 2:] - b[:, :2]).prod(1) / other.canvas**2).mean()))
        for x, b in ((query, boxes), (images, their_boxes))
    ]
    if max(abs(a - b) for a, b in zip(*facts, strict=True)) > 0.12:
        raise SystemExit(f"the two sides make different views: {facts}")


def stages(kept: Pixels, recipe: Recipe, other: Release, times: np.ndarray) -> None:
    """Where the time of each side goes, and what a decode alone would allow."""
    indices = np.random.default_rng(1).permutation(len(kept))[:BATCH].tolist()
    ours_us = {name: microseconds(work) for name, work in our_stages(kept, recipe, other, indices).items()}
    theirs_us = {name: microseconds(work) for name, work in their_stages(other, indices).items()}
    for side, rows in (("ours", ours_us), ("per sample", theirs_us)):
        for name, value in rows.items():
            print(f"  {side:10}  {name:34} {value:8.0f} us a pair")
    rival, encoded, memory = np.median(times, axis=0) * 1e6
    print(f"  whole: per sample {rival:.0f} us a pair, ours {encoded:.0f} from bytes, {memory:.0f} from memory")
    bound = ours_us["one decode"]
    print(f"  one decode alone would allow {1e6 / bound:.0f} pairs/s, {rival / bound:.1f} times the per-sample pipeline")


def our_stages(kept: Pixels, recipe: Recipe, other: Release, indices: list[int]) -> dict[str, Callable[[], object]]:
    """The steps of `make_views` and `to_input`, for both views."""
    canvas, facts = recipe.canvas, InputFacts(size=(recipe.canvas,) * 2, mean=paper.PIXEL_MEAN, std=paper.PIXEL_STD)
    views = make_views(kept, len(kept), indices, 0, recipe)
    foregrounds = kept.many(indices)
    sizes = np.array([[image.shape[2], image.shape[1]] for image in foregrounds])
    layouts = [
        draw_layout(sizes, len(kept), canvas, recipe.foreground_bounds, numbers[:, :VIEW_UNIFORMS])
        for numbers in draw_numbers(recipe, 0, indices)
    ]
    under = [kept.backgrounds(layout.background.tolist(), canvas) for layout in layouts]
    unblurred = [replace(view.colour, sigma=torch.zeros(len(indices))) for view in views]
    plain = [to_input(view, facts) for view in views]
    return {
        "one decode": lambda: [decode(other.encoded[i]) for i in indices],
        "one square (background)": lambda: [resize_plain(image, (canvas, canvas)) for image in foregrounds],
        "random numbers, layouts": lambda: [
            draw_layout(sizes, len(kept), canvas, recipe.foreground_bounds, numbers[:, :VIEW_UNIFORMS])
            for numbers in draw_numbers(recipe, 0, indices)
        ],
        "resize the crops, paste": lambda: [paste(u, foregrounds, at) for u, at in zip(under, layouts, strict=True)],
        "flip": lambda: [mirror(view.composites, at.flip) for view, at in zip(views, layouts, strict=True)],
        "colour and normalisation": lambda: [
            apply_colour(view.composites, colour, facts) for view, colour in zip(views, unblurred, strict=True)
        ],
        "blur": lambda: [blur(x, view.colour.sigma) for x, view in zip(plain, views, strict=True)],
    }


def their_stages(other: Release, indices: list[int]) -> dict[str, Callable[[], object]]:
    """The steps of `Release.sample`, for both views."""
    images = [other.decode(i) for i in indices]
    squares = [other.squared(image) for image in images]
    composites = [other.paste(square.copy(), image)[0] for square, image in zip(squares, images, strict=True)]
    pictures = [Image.fromarray(x) for x in composites]
    box = np.zeros((1, 4), dtype=np.float32)
    return {
        "three decodes": lambda: [other.decode(i) for i in indices * 3],
        "two backgrounds": lambda: [other.squared(image) for image in images * 2],
        "two crops, paste": lambda: [other.paste(s, i) for s, i in zip(squares * 2, images * 2, strict=True)],
        "jitter (of 8 in 10)": lambda: [jittered(x) for x in pictures * 2 if random.random() < paper.JITTER_PROBABILITY],
        "blur (of 5 in 10)": lambda: [
            x.filter(ImageFilter.GaussianBlur(random.uniform(*other.sigma)))
            for x in pictures * 2
            if random.random() < paper.BLUR_PROBABILITY
        ],
        "flip, normalisation": lambda: [other.finish(x, box.copy()) for x in composites * 2],
    }


def microseconds(work: Callable[[], object]) -> float:
    """CPU time per image of a batch: the median of 9 calls."""
    return float(np.median([seconds(work) for _ in range(9)])) / BATCH * 1e6


def result(name: str, times: np.ndarray, column: int, reach: float) -> dict[str, object]:
    """The line of the house standard: pairs of views a second, and the ratio of each repeat."""
    ratios = times[:, 0] / times[:, column]
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {
        "benchmark": "compose",
        "case": name,
        "ours": round(1 / float(np.median(times[:, column])), 1),
        "other": round(1 / float(np.median(times[:, 0])), 1),
        "unit": "pairs/s",
        "ratio": round(float(np.median(ratios)), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
        "reach": reach,
        "holds": bool(low >= reach),
        "machine": f"{platform.machine()}, 1 core, torch {torch.__version__}, OpenCV {cv2.__version__}",
    }


if __name__ == "__main__":
    main()
