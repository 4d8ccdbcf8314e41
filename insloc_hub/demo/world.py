"""A procedural world: images of textured objects with known classes, boxes and masks.

It stands in for a photo collection where none may be shown, shipped or downloaded: the demo, the tests and the
published pictures use it. Image `index` of a seed is always the same, however many others are made. No torch here.
Between versions of numpy a few pixels differ by one level (numpy 1.26 to 2.4: 5 in a million); masks do not.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator
from PIL import Image
from pycocotools import mask as coco_mask

from insloc_hub.demo.backgrounds import background
from insloc_hub.demo.things import LOOKS, Light, Placement, draw_light, draw_placement, paint
from insloc_hub.errors import BadData, InslocError
from insloc_hub.files import write_json, write_whole
from insloc_hub.shapes import Bool, Float, Int, UInt8

CLASSES: tuple[str, ...] = tuple(sorted(LOOKS))
"""Names in label order."""

FIRST_VAL_INDEX = len(CLASSES) * 10**8  # far behind every training image, so that both splits can grow
QUALITY = 92  # JPEG
STAMP = "world.json"
VERSION = 1  # of the drawing: raise it when the same seed gives other pixels
SMALLEST_PX = 6  # a distractor of which less than this square is visible is not annotated, hence not drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image and what is on it; the main object comes first."""

    pixels: UInt8[np.ndarray, "h w 3"]
    label: int
    """Class of the main object, an index into CLASSES."""
    boxes: Float[np.ndarray, "n 4"]
    """x1 y1 x2 y2 in pixels, edge coordinates, tight around the visible mask."""
    labels: Int[np.ndarray, " n"]
    masks: Bool[np.ndarray, "n h w"]
    """Visible pixels of each object; no pixel belongs to two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldFacts:
    """What a written world holds; the same facts stand in its stamp."""

    seed: int
    train_per_class: int
    val_per_class: int
    size: int
    """Images have sides of 3/4 to 4/3 of this many pixels."""
    classes: tuple[str, ...] = CLASSES
    version: int = VERSION

    def indices(self, split: str) -> range:
        """Indices of a split's images, "train" or "val", for `draw`."""
        first, count = (0, self.train_per_class) if split == "train" else (FIRST_VAL_INDEX, self.val_per_class)
        return range(first, first + count * len(self.classes))

    def keys(self, split: str) -> list[str]:
        """Paths of a split's images below its folder, in index order."""
        first = self.indices(split).start
        return [f"{self.classes[i % len(self.classes)]}/{split}_{i - first:06d}.jpg" for i in self.indices(split)]


def draw(seed: int, index: int, size: tuple[int, int] | int = 96) -> Picture:
    """Image `index` of the world `seed`: its main object is of class `index % len(CLASSES)`. `size` is (h, w) or both."""
    h, w = (size, size) if isinstance(size, int) else size
    if seed < 0 or index < 0 or min(h, w) < 32:
        raise InslocError(f"seed {seed} and index {index} must not be negative, and size {size} at least 32 pixels")
    generator = Generator(PCG64([seed, index]))
    label = index % len(CLASSES)
    light = draw_light(generator)
    canvas = background(generator, h, w)
    places = _places(generator, label, h, w)
    masks = np.zeros((len(places), h, w), bool)
    for i in reversed(range(len(places))):  # the main object last, on top of all
        mask = paint(canvas, places[i], light, generator)
        masks[i + 1 :] &= ~mask
        masks[i] = mask
    least = [1] + [SMALLEST_PX**2] * (len(places) - 1)
    kept = [i for i in range(len(places)) if masks[i].sum() >= least[i]]
    return Picture(
        pixels=_develop(canvas, light, generator),
        label=label,
        boxes=np.array([_tight_box(masks[i]) for i in kept], np.float32),
        labels=np.array([CLASSES.index(places[i].name) for i in kept], np.int64),
        masks=masks[kept],
    )


def write(
    folder: Path,
    *,
    seed: int = 0,
    train_per_class: int = 100,
    val_per_class: int = 25,
    size: int = 96,
    progress: Callable[[int, int], None] | None = None,
) -> WorldFacts:
    """Write `train/` and `val/` class folders and COCO annotations; a finished world of the same facts is left alone.

    `progress` is called with (images done, images in all). BadData: the folder holds something else, and nothing is
    written. A world of other facts is replaced, file by file; strangers' files in it stay.
    """
    facts = WorldFacts(seed=seed, train_per_class=train_per_class, val_per_class=val_per_class, size=size)
    if min(train_per_class, val_per_class) < 1 or size < 48 or seed < 0:
        raise InslocError(f"a world needs a seed from 0, an image per class and split, and 48 pixels or more; got {facts}")
    stamp = _read_stamp(folder)
    if stamp == {**_plain(facts), "finished": True} and _all_there(folder, facts):
        return facts
    if stamp:
        _remove(folder, stamp)
    # Before the first image: a half-written folder must be known as ours.
    write_json(folder / STAMP, {**_plain(facts), "finished": False})
    total = len(CLASSES) * (train_per_class + val_per_class)
    done = 0
    for split in ("train", "val"):
        coco = _empty_coco(facts)
        for key, picture in pictures(facts, split):
            _write_jpeg(folder / split / key, picture.pixels)
            _annotate(coco, key, picture)
            done += 1
            if progress:
                progress(done, total)
        write_json(folder / "annotations" / f"instances_{split}.json", coco)
    write_json(folder / STAMP, {**_plain(facts), "finished": True})
    return facts


def pictures(facts: WorldFacts, split: str) -> Iterator[tuple[str, Picture]]:
    """The images of a split with their keys, as `write` writes them (before JPEG)."""
    for key, index in zip(facts.keys(split), facts.indices(split), strict=True):
        # A stream of its own: the size must not change what else is drawn.
        sides = Generator(PCG64([facts.seed, index, 1])).uniform(3 / 4, 4 / 3, 2)
        h, w = (round(facts.size * side) for side in sides)
        yield key, draw(facts.seed, index, (h, w))


def _places(generator: Generator, label: int, h: int, w: int) -> list[Placement]:
    """The main object somewhere, mostly inside, and up to two smaller ones that it hides little of."""
    short = min(h, w)
    radius = short * 0.5 * generator.uniform(0.42, 0.95)
    margin = radius * 0.8  # at most a fifth of the radius leaves the image, if at all
    x, y = (_between(generator, margin, side - margin) for side in (w, h))
    places = [draw_placement(generator, CLASSES[label], radius, x, y)]
    for _ in range(int(generator.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))):
        small = max(short * generator.uniform(0.09, 0.17), 5.0)
        name = CLASSES[int(generator.integers(len(CLASSES)))]
        for _ in range(12):
            x, y = generator.uniform(small, w - small), generator.uniform(small, h - small)
            if all((x - p.x) ** 2 + (y - p.y) ** 2 > (0.9 * p.radius + small) ** 2 for p in places):
                places.append(draw_placement(generator, name, small, x, y))
                break
    return places


def _between(generator: Generator, low: float, high: float) -> float:
    """Uniform between the bounds, or their middle where they have crossed."""
    return float(generator.uniform(low, high)) if low < high else (low + high) / 2


def _develop(canvas: np.ndarray, light: Light, generator: Generator) -> np.ndarray:
    """The canvas under the light as bytes: uneven, tinted, exposed and with a sensor's noise."""
    h, w = canvas.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    across = (x / w - 0.5) * np.cos(light.turn) + (y / h - 0.5) * np.sin(light.turn)
    tint = np.array([1 + 0.07 * light.warmth, 1.0, 1 - 0.07 * light.warmth])
    lit = canvas * (light.exposure * (1 + 0.35 * across))[..., None] * tint
    noise = generator.standard_normal((h, w, 1), dtype=np.float32) * np.float32(generator.uniform(0.003, 0.02))
    return np.asarray(np.clip((lit + noise) * 255 + 0.5, 0, 255).astype(np.uint8))


def _tight_box(mask: np.ndarray) -> list[int]:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _write_jpeg(path: Path, pixels: np.ndarray) -> None:
    write_whole(path, lambda part: Image.fromarray(pixels).save(part, "JPEG", quality=QUALITY, subsampling=0))


def _empty_coco(facts: WorldFacts) -> dict[str, Any]:
    return {
        "info": {"description": "insloc_hub procedural world", "version": str(VERSION), "seed": facts.seed},
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(facts.classes)],
    }


def _annotate(coco: dict[str, Any], key: str, picture: Picture) -> None:
    """Append the image and its objects; ids start at 1, as 0 means "no match" to COCO's own evaluation."""
    h, w = picture.pixels.shape[:2]
    image_id = len(coco["images"]) + 1
    coco["images"].append({"id": image_id, "file_name": key, "width": w, "height": h})
    for box, label, mask in zip(picture.boxes, picture.labels, picture.masks, strict=True):
        runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        x1, y1, x2, y2 = (float(side) for side in box)
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.sum()),
                "segmentation": {"size": [h, w], "counts": runs["counts"].decode("ascii")},
                "iscrowd": 0,
            }
        )


def _plain(facts: WorldFacts) -> dict[str, Any]:
    return {**asdict(facts), "classes": list(facts.classes)}


def _read_stamp(folder: Path) -> dict[str, Any]:
    """The stamp of a world that is there, {} for an empty or missing folder. BadData: anything else is there."""
    path = folder / STAMP
    if path.is_file():
        try:
            stamp = json.loads(path.read_text(encoding="utf-8"))
            _facts_of(stamp)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise BadData(path, "not the stamp of a procedural world; choose another folder or remove it") from None
        return dict(stamp)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadData(folder, f"not empty, and no {STAMP} says that it is a procedural world; choose another folder")
    return {}


def _facts_of(stamp: dict[str, Any]) -> WorldFacts:
    facts = {key: value for key, value in stamp.items() if key != "finished"}
    return WorldFacts(**{**facts, "classes": tuple(facts["classes"])})


def _all_there(folder: Path, facts: WorldFacts) -> bool:
    return all((folder / split / key).is_file() for split in ("train", "val") for key in facts.keys(split))


def _remove(folder: Path, stamp: dict[str, Any]) -> None:
    """Remove the files that the stamp accounts for, and class folders that this leaves empty."""
    facts = _facts_of(stamp)
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").unlink(missing_ok=True)
        for key in facts.keys(split):
            (folder / split / key).unlink(missing_ok=True)
        for name in facts.classes:
            place = folder / split / name
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
