"""The images of a run: which ones, how they are kept, and where backgrounds come from."""

import math
from pathlib import Path

import torch

from insloc_hub.data.cache import Pixels, load_pixels
from insloc_hub.data.folder import ImageSet, is_source, list_classes, list_images
from insloc_hub.data.loader import pool_size
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.progress import say, track
from insloc_hub.recipe import Recipe

SHORT_SIDES = 2  # images are reduced to this many canvases of short side
NAMED = 5  # unreadable images named on the screen; all are in run.json
DEVICE_SHARE = 0.25  # of an accelerator's memory that images may take: activations need the rest


def list_for(data: Path, recipe: Recipe) -> ImageSet:
    """What is trained on; of a folder with train and val halves (folders or tars) the first only. BadData."""
    if is_source(data / "train") and is_source(data / "val"):
        _news(f"training on {data / 'train'}; {data / 'val'} is left for evaluation")
        data = data / "train"
    return list_images(data) if recipe.objective == "contrast" else list_classes(data)


def read_for(images: ImageSet, recipe: Recipe, options: RunOptions, device: torch.device) -> Pixels:
    """The pixels of `images`, kept as the options say and, where they fit, on the device. BadData: too few readable ones."""
    budget = {"auto": options.cache_gib * 2**30, "ram": math.inf, "off": 0.0}[options.cache]
    with track("read images", len(images)) as progress:
        pixels = load_pixels(images, SHORT_SIDES * recipe.canvas, budget, progress.advance)
    _tell_bad(pixels, len(images), options)
    kept = len(pixels.kept)
    pixels.settle(recipe.canvas, budget, pool_size(recipe.batch))
    if kept < len(pixels):
        where = "cache is off" if options.cache == "off" else f"cache of {options.cache_gib:g} GiB"
        _news(f"{len(pixels.kept)} of {len(pixels)} images fit in the {where}; the rest is decoded at each use")
        if pixels.pool is not None:
            _news(f"so backgrounds come from the last {pixels.pool} images instead of all; --cache ram keeps everything")
    elif device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        if pixels.nbytes() < DEVICE_SHARE * total:
            pixels.to(device)
            _news(f"{len(pixels)} images are on the {device.type} device; views are composed there")
    return pixels


def _tell_bad(pixels: Pixels, listed: int, options: RunOptions) -> None:
    if not pixels.bad:
        return
    _news(f"skipped {len(pixels.bad)} of {listed} images that can't be read:")
    for problem in list(pixels.bad.values())[:NAMED]:
        _news(f"  {problem}")
    if len(pixels.bad) > NAMED:
        _news(f"  ... and {len(pixels.bad) - NAMED} more, listed in {options.run / 'run.json'}")


def _news(text: str) -> None:
    """Say it once, not once per process."""
    if distributed.rank() == 0:
        say(text)
