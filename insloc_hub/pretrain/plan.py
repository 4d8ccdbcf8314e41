"""Look at a person's images and device, and propose a run: each setting with its reason, the whole with its price. [ours]

The advice that MoCo's maintainers decline to give (field.md, theme 7). Rules of thumb, said as such: only a run and its
evaluation tell. Times are measured here, on a few images and a few real steps.
"""

import math
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from insloc_hub.data.cache import CHANNELS
from insloc_hub.data.folder import ImageSet, list_images, read_sample
from insloc_hub.errors import BadData, BadImage
from insloc_hub.models.extractor import find_device
from insloc_hub.parallel.groupbn import draw_shuffle
from insloc_hub.pretrain.images import SHORT_SIDES
from insloc_hub.pretrain.state import new_state
from insloc_hub.pretrain.step import Batch, train_step
from insloc_hub.recipe import Recipe, at_batch, at_canvas
from insloc_hub.recipes import insloc_c4_r50_200ep, insloc_c4_small

LOOKED_AT = 64  # images that are decoded
STEPS = 3  # timed, after one that is not
SMALL_PX, LARGE_PX = 96, 400  # median short sides: below it thumbnails, above it whole photographs
QUEUE_SHARE = 4  # the queue is at most a quarter of the set: older keys of a query's own instance stay rare
MANY = 100_000  # images from which on a ResNet-50 at the paper's size pays
MEMORY_SHARE = 0.5  # of the free memory that decoded images may take


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a look at the images found."""

    images: int
    looked_at: int
    unreadable: int
    short_px: float
    """Median short side of those looked at."""
    decode_ms: float
    """Mean per image, on one core."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One setting with its reason."""

    flag: str
    """As on the command line; empty where nothing is to be said."""
    value: str
    reason: str


def survey(images: ImageSet) -> Survey:
    """Decode up to LOOKED_AT images, evenly over the set. BadData: fewer than 2 of them can be read."""
    samples = images.samples[:: max(1, len(images) // LOOKED_AT)][:LOOKED_AT]
    sides, bad, start = [], 0, time.perf_counter()
    for sample in samples:
        try:
            sides.append(min(read_sample(sample).shape[1:]))
        except BadImage:
            bad += 1
    if len(sides) < 2:
        raise BadData(images.root, f"of {len(samples)} images looked at, {bad} can't be read; pretraining needs at least 2")
    spent = (time.perf_counter() - start) / len(samples)
    return Survey(images=len(images), looked_at=len(samples), unreadable=bad, short_px=median(sides), decode_ms=1000 * spent)


def propose(seen: Survey, accelerator: bool) -> tuple[Recipe, list[Advice]]:
    """The recipe for these images, and why."""
    many = seen.images >= MANY
    recipe = insloc_c4_r50_200ep() if accelerator and many else insloc_c4_small()
    canvas = 256 if accelerator and seen.short_px > SMALL_PX else 128
    batch = _batch(seen.images, accelerator)
    recipe = at_batch(at_canvas(recipe, canvas), batch)
    queue = max(batch, min(recipe.queue, seen.images // QUEUE_SHARE) // batch * batch)
    epochs = 200 if many else 400
    values = recipe.as_dict() | {"queue": queue, "epochs": epochs}
    recipe = Recipe(**values)
    size = "ResNet-50: enough images and an accelerator" if many and accelerator else "small trunk: a first run, soon judged"
    return recipe, [
        Advice(flag="--recipe", value=recipe.name, reason=f"InsLoc-C4 with a {size}"),
        Advice(
            flag="--canvas",
            value=str(canvas),
            reason=f"the images' short side is {seen.short_px:.0f} px"
            + ("" if accelerator or seen.short_px <= SMALL_PX else "; a CPU takes four times as long at 256"),
        ),
        Advice(flag="--batch", value=str(batch), reason=f"in {recipe.bn_groups} groups of {batch // recipe.bn_groups}"),
        Advice(
            flag="--queue",
            value=str(queue),
            reason=f"{queue / seen.images:.0%} of the images; above a quarter, queries meet older keys of their own instance",
        ),
        Advice(
            flag="", value=f"lr {recipe.learning_rate:g}", reason="the paper's .03 for 256 images, in proportion to the batch"
        ),
        Advice(
            flag="--epochs",
            value=str(epochs),
            reason="the paper's" if many else "twice the paper's: a small set is seen sooner",
        ),
    ]


def cache_advice(seen: Survey, canvas: int, free_bytes: float) -> Advice:
    """Whether the decoded images fit in memory, and what follows."""
    side = min(seen.short_px, SHORT_SIDES * canvas)
    wanted = seen.images * CHANNELS * side * side * 4 / 3  # photographs are about 4 : 3
    gib = math.ceil(10 * wanted / 2**30) / 10
    if wanted < MEMORY_SHARE * free_bytes:
        return Advice(flag="--cache-gib", value=f"{max(gib, 0.1):g}", reason="all decoded images fit: one decode each, once")
    return Advice(
        flag="--cache-gib",
        value=f"{MEMORY_SHARE * free_bytes / 2**30:.1f}",
        reason=f"all would take {gib:g} GiB; the rest is decoded at each use ({seen.decode_ms:.1f} ms), and backgrounds come "
        "from the images seen last",
    )


def warnings(seen: Survey) -> list[str]:
    """What the look at the images makes doubtful."""
    found = []
    if seen.unreadable:
        found.append(f"{seen.unreadable} of {seen.looked_at} images looked at can't be read; pretrain skips and names them")
    if seen.short_px >= LARGE_PX:
        found.append(
            f"short sides of {seen.short_px:.0f} px look like whole photographs, perhaps scenes of many objects (judged by "
            "size alone). InsLoc takes a crop for ONE instance. If yours are scenes and you have boxes, cut the objects out "
            "first, with some margin; if not, cut each photograph into overlapping tiles and pretrain on these"
        )
    if seen.images < 1000:
        found.append(f"{seen.images} images are few to learn from: start from weights (--init resnet18.a1_in1k) and judge both")
    return found


def time_step(recipe: Recipe, device: torch.device) -> float:
    """Seconds of one optimizer step on made-up tensors, the mean of STEPS after one that is not counted."""
    state = new_state(recipe, device)
    generator = torch.Generator(device=device).manual_seed(0)
    side = recipe.canvas
    images = torch.rand(recipe.batch, 3, side, side, generator=generator, device=device)
    boxes = torch.tensor([[0.2, 0.2, 0.8, 0.9]], device=device).mul(side).expand(recipe.batch, 4).contiguous()
    keys = images[draw_shuffle(recipe.batch, generator).order]
    batch = Batch(query=images, query_boxes=boxes, key=keys, key_boxes=boxes)
    float(train_step(state, batch, recipe.learning_rate).loss)  # waits for the device
    start = time.perf_counter()
    for _ in range(STEPS):
        facts = train_step(state, batch, recipe.learning_rate)
    float(facts.loss)
    return (time.perf_counter() - start) / STEPS


def plan(data: Path, device_name: str, out: Path) -> str:
    """The proposal as text, ending with the command. BadData; InslocError: no such device."""
    images = list_images(data / "train" if (data / "train").is_dir() and (data / "val").is_dir() else data)
    device = find_device(device_name)
    seen = survey(images)
    recipe, advice = propose(seen, device.type == "cuda")
    advice.append(cache_advice(seen, recipe.canvas, free_memory()))
    step = time_step(recipe, device)
    hours = recipe.epochs * math.ceil(seen.images / recipe.batch) * step / 3600
    said = [f"{seen.images:,} images, median short side {seen.short_px:.0f} px, {seen.decode_ms:.1f} ms to decode one"]
    said += [
        f"{recipe.batch / step:,.0f} images/s in {STEPS} steps of {recipe.arch} at {recipe.canvas} px on this {device.type}",
        "",
    ]
    said += [f"  {' '.join(filter(None, (a.flag, a.value))):28} {a.reason}" for a in advice]
    said += ["", f"Price: {hours:,.1f} hours, if views are ready in time (--profile tells)."]
    if hours > 24:
        said.append(f"In one night (10 h): --epochs {max(1, int(recipe.epochs * 10 / hours))}. Judge that first.")
    said += [f"Warning: {text}." for text in warnings(seen)]
    flags = [part for a in advice if a.flag for part in (a.flag, a.value)]
    return "\n".join([*said, "", shlex.join(["insloc", "pretrain", "--data", str(data), *flags, "--out", str(out)])])


def free_memory() -> float:
    """Bytes that the machine could give now; a small guess where it does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):  # not on every system
        return 4.0 * 2**30


def _batch(images: int, accelerator: bool) -> int:
    """256 on an accelerator and 32 on a CPU, less for few images: at least eight steps an epoch, at least 8 images."""
    most = 256 if accelerator else 32
    return max(8, min(most, images // 8 // 8 * 8))
