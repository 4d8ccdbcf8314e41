"""Samples -> the batch of a step, from (protocol, samples, seed, step) alone: order, shorter side, flip, targets.

An endless shuffle fills two buckets, wide and tall; a full one is a batch, so that little of it is padding. detectron2
does this per GPU, with pairs; here the whole batch is of one kind [ours], and so does not depend on how many GPUs there are.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import PCG64, Generator
from pycocotools import mask as coco_mask
from torch import Tensor

from insloc_eval.detection.data import Mask, Sample
from insloc_eval.protocols.detection import Detection
from insloc_hub.data.transform import resize
from insloc_hub.errors import InslocError
from insloc_hub.parallel import distributed
from insloc_hub.shapes import UInt8

ORDER_STREAM, VIEW_STREAM = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a detector is given in a step."""

    images: list[Tensor]
    """uint8 [3 h w] each, at network size."""
    targets: list[dict[str, Tensor]]
    """boxes float32 [n 4] in pixels of the image, labels int64 [n] from 1, and masks uint8 [n h w] where they are learnt."""

    def to(self, device: torch.device) -> "Batch":
        """There."""
        targets = [{name: tensor.to(device) for name, tensor in target.items()} for target in self.targets]
        return Batch(images=[image.to(device) for image in self.images], targets=targets)


def trainable(samples: Sequence[Sample]) -> list[Sample]:
    """Those with an object to learn from; crowds are none (detectron2 leaves both out). InslocError: not one."""
    kept = [sample for sample in samples if bool((~sample.crowd).any())]
    if not kept:
        raise InslocError("no image has an annotated object, so a detector has nothing to learn from")
    return kept


def plan(samples: Sequence[Sample], batch: int, seed: int, steps: int) -> np.ndarray:
    """Indices of the samples of each step, [steps batch]; an image comes again only when (nearly) all have been seen."""
    wide = [w >= h for w, h in (sample.size_wh for sample in samples)]
    rows = list(itertools.islice(_batches(wide, batch, seed), steps))
    return np.array(rows, dtype=np.int64).reshape(steps, batch)


def _batches(wide: Sequence[bool], batch: int, seed: int) -> Iterator[list[int]]:
    buckets: dict[bool, list[int]] = {True: [], False: []}
    for epoch in itertools.count():
        for index in Generator(PCG64([seed, ORDER_STREAM, epoch])).permutation(len(wide)).tolist():
            bucket = buckets[wide[index]]
            bucket.append(index)
            if len(bucket) == batch:
                yield bucket.copy()
                bucket.clear()


def batches_of(samples: Sequence[Sample], protocol: Detection, seed: int, steps: int) -> Callable[[int], Batch]:
    """step -> this process's part of its batch. BadImage: when a picture can't be read."""
    order = plan(samples, protocol.batch, seed, steps)
    mine = distributed.mine(protocol.batch)

    def make(step: int) -> Batch:
        views = []
        for place in range(protocol.batch)[mine]:
            generator = Generator(PCG64([seed, VIEW_STREAM, step, place]))
            short = int(generator.choice(protocol.train_short_px))
            flip = bool(generator.random() < protocol.flip)
            views.append(view(samples[order[step, place]], protocol, short, flip))
        return Batch(images=[image for image, _ in views], targets=[target for _, target in views])

    return make


def view(sample: Sample, protocol: Detection, short: int, flip: bool) -> tuple[UInt8[Tensor, "3 h w"], dict[str, Tensor]]:
    """One training image at network size and its target. InslocError: masks are to be learnt, and it has none."""
    image, (sx, sy) = at_size(sample.load(), short, protocol.longest_px)
    h, w = image.shape[1:]
    kept = ~sample.crowd
    boxes = sample.boxes[kept] * torch.tensor([sx, sy, sx, sy])
    target = {"labels": sample.labels[kept] + 1}  # 0 is the background
    if protocol.mask:
        if sample.masks is None:
            raise InslocError(
                f"{sample.key}: has boxes but no masks, which {protocol.title} learns; take a protocol without masks"
            )
        masks = [one for one, keep in zip(sample.masks, kept.tolist(), strict=True) if keep]
        target["masks"] = _resized(torch.stack([pixels_of(one, sample.size_wh) for one in masks]), (h, w))
    if flip:
        image = image.flip(2)
        boxes = torch.stack([w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0], boxes[:, 3]], dim=1)
        target = {name: tensor.flip(2) if name == "masks" else tensor for name, tensor in target.items()}
    return image, {"boxes": boxes, **target}


def at_size(image: UInt8[Tensor, "3 h w"], short: int, longest: int) -> tuple[UInt8[Tensor, "3 hh ww"], tuple[float, float]]:
    """The shorter side brought to `short`, or less where the longer would pass `longest`; and what x and y were scaled by."""
    h, w = image.shape[1:]
    scale = min(short / min(h, w), longest / max(h, w))
    hh, ww = max(1, round(h * scale)), max(1, round(w * scale))
    return (image if (hh, ww) == (h, w) else resize(image, (hh, ww))), (ww / w, hh / h)


def pixels_of(mask: Mask, size_wh: tuple[int, int]) -> UInt8[Tensor, "h w"]:
    """0 or 1 for each pixel of the original."""
    w, h = size_wh
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, h, w))
    elif isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, h, w)
    return torch.from_numpy(coco_mask.decode(mask))


def _resized(masks: UInt8[Tensor, "n h w"], size: tuple[int, int]) -> UInt8[Tensor, "n hh ww"]:
    resized: Tensor = torch.nn.functional.interpolate(masks[:, None], size=size, mode="nearest-exact")
    return resized[:, 0]
