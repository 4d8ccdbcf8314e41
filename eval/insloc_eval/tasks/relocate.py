"""patches/relocate: where in this photograph is this patch? paper.md D.1, the localization figure of the house.

A view of the patch (moved, rescaled, flipped, recoloured) is encoded alone; its mean vector is compared with the region
mean of every candidate box on the whole image's map. No training, no labels, no pasting.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.v2 import functional as F

from insloc_eval.applies import fitted, need_input, need_stride, sides_of
from insloc_eval.features import BATCH, batches, check_finite, check_frozen, decoded, one_thread_each, reason
from insloc_eval.job import Job
from insloc_eval.protocols import Relocate
from insloc_eval.sets import unreadable
from insloc_eval.stats import mean, share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.tasks.candidates import best, overlaps, success_map
from insloc_eval.tasks.relocate_draws import CONSTANT_DRAWS, Patch, candidate_boxes, draw_patch, reference_rows
from insloc_hub.boxes.means import axis_weights
from insloc_hub.data.transform import normalise, resize
from insloc_hub.errors import BadData, BadImage
from insloc_hub.models.extractor import Extractor
from insloc_hub.progress import track
from insloc_hub.shapes import Float, UInt8

CONSTANT = f"constant box: the candidate that is best on {CONSTANT_DRAWS} other patches drawn alike"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One image's answers: the IoU of the chosen candidate, and of every candidate."""

    key: str
    ious: Float[np.ndarray, " k"]
    chosen: dict[str, int]
    """Metric suffix -> index of the best candidate."""
    enlarged: bool
    """Whether a query was too small for this network."""


def run(job: Job) -> Judged:
    """Acc@.5 and mIoU of the stride-16 map with the view as query; the stride-32 map; the same pixels as query."""
    protocol = job.protocol
    assert isinstance(protocol, Relocate)
    need_input(job.extractor, job.input_px)
    need_stride(job.extractor, protocol.stride)
    searcher = Searcher(job.extractor, protocol, job.input_px)
    found: list[Found] = []
    skipped: dict[str, str] = {}
    samples = job.split.test.samples
    with track(f"{job.shown}: relocate", len(samples)) as progress:
        for batch in batches(decoded(samples, lambda image: resize(image, (job.input_px, job.input_px))), BATCH // 2):
            skipped |= {sample.key: reason(sample, error) for sample, error in batch if isinstance(error, BadImage)}
            good = [(sample.key, image) for sample, image in batch if isinstance(image, Tensor)]
            found += searcher.search(good, job.seed)
            progress.advance(len(batch))
    check_frozen(job.extractor)
    if len(found) < 2:
        raise BadData(job.split.test.root, f"only {len(found)} of {len(samples)} test images can be read")
    ious = np.stack([one.ious for one in found])
    outcomes: dict[str, np.ndarray] = {}
    for suffix in found[0].chosen:
        hit = ious[np.arange(len(found)), [one.chosen[suffix] for one in found]]
        outcomes[f"acc50{suffix}"] = (hit >= protocol.hit_iou).astype(np.float64)
        outcomes[f"miou{suffix}"] = hit
    counts, notes = unreadable(skipped, "test")
    enlarged = sum(one.enlarged for one in found)
    if enlarged:
        counts["queries_enlarged"] = enlarged
        notes += (f"{enlarged} queries were enlarged: this network takes no input of their size",)
    patches = np.array([draw_patch(protocol, job.input_px, job.seed, one.key).box for one in found], np.float64)
    table = success_map(patches, outcomes["acc50"], job.input_px)
    result = job.result(
        metrics={n: share(v) if n.startswith("acc50") else mean(v, "IoU") for n, v in outcomes.items()},
        rows=reference_rows(protocol, job.input_px, ious),
        counts={"test_images": len(found), "candidates": ious.shape[1], **counts},
        notes=(CONSTANT, *notes),
        maps={"acc50 by where the patch is": table} if table else {},
    )
    return Judged(result=result, outcomes=outcomes_of(tuple(one.key for one in found), **outcomes))


class Searcher:
    """A frozen network with the candidates of one input size, whose weights on each map are built once."""

    def __init__(self, extractor: Extractor, protocol: Relocate, size_px: int) -> None:
        self.extractor = extractor
        self.protocol = protocol
        self.size_px = size_px
        self.boxes = candidate_boxes(protocol, size_px)
        self.strides = [s for s in (protocol.stride, protocol.other_stride) if s in extractor.channels]
        self.sides = sides_of(extractor, self.strides)
        self._weights: dict[tuple[int, int], Tensor] = {}

    def search(self, images: list[tuple[str, UInt8[Tensor, "3 s s"]]], seed: int) -> list[Found]:
        """The best candidate of each image, for both queries on each map."""
        if not images:
            return []
        inputs = torch.stack([normalise(image, self.extractor.facts) for _, image in images])
        maps = self.extractor.forward(inputs, self.strides, pooled=False).maps
        for one_map in maps.values():
            check_finite(self.extractor, one_map, [key for key, _ in images])
        for one_map in maps.values():
            self._on(one_map)
        draws = [draw_patch(self.protocol, self.size_px, seed, key) for key, _ in images]
        own_maps = [{stride: one_map[place] for stride, one_map in maps.items()} for place in range(len(images))]
        with one_thread_each() as threads, ThreadPoolExecutor(threads if self.extractor.device.type == "cpu" else 1) as pool:
            return list(pool.map(self._find, images, draws, own_maps))

    @torch.inference_mode()
    def _find(self, named: tuple[str, UInt8[Tensor, "3 s s"]], patch: Patch, maps: dict[int, Tensor]) -> Found:
        key, image = named
        pixels = {"": view_pixels(image, patch), "_same_pixels": cut(image, patch.box)}
        taken = {name: fitted(one, self.sides) for name, one in pixels.items()}
        queries = {name: self._query(one) for name, one in taken.items()}
        return Found(
            key=key,
            ious=overlaps(np.array(patch.box, np.float64), self.boxes),
            chosen=dict(self._choices(maps, queries)),
            enlarged=any(taken[name].shape != pixels[name].shape for name in pixels),
        )

    def _choices(self, maps: dict[int, Tensor], queries: dict[str, dict[int, Tensor]]) -> Iterator[tuple[str, int]]:
        for stride, one_map in maps.items():
            regions = normalize(self._on(one_map) @ one_map.flatten(1).T, dim=1)
            on_map = "" if stride == self.protocol.stride else f"_stride{stride}"
            for name, query in queries.items():
                if name and on_map:
                    continue  # the control is read on the primary map
                yield on_map + name, best(regions @ normalize(query[stride], dim=0), self.protocol.tie)

    def _query(self, pixels: UInt8[Tensor, "3 h w"]) -> dict[int, Tensor]:
        """Mean vector of the patch encoded alone, for each map."""
        inputs = normalise(pixels, self.extractor.facts)[None]
        maps = self.extractor.forward(inputs, self.strides, pooled=False).maps
        return {stride: one_map[0].mean(dim=(1, 2)) for stride, one_map in maps.items()}

    def _on(self, one_map: Float[Tensor, "*b c h w"]) -> Float[Tensor, "n hw"]:
        """Weights of every map cell in the region mean of each candidate, as region_means has them."""
        h, w = one_map.shape[-2:]
        if (h, w) not in self._weights:
            boxes = torch.from_numpy(self.boxes).to(one_map)
            scale = w / self.size_px
            x = axis_weights(boxes[:, 0], boxes[:, 2], w, scale, self.protocol.bins, 0, one_map)
            y = axis_weights(boxes[:, 1], boxes[:, 3], h, scale, self.protocol.bins, 0, one_map)
            self._weights[h, w] = (y[:, :, None] * x[:, None, :]).flatten(1)
        return self._weights[h, w]


def view_pixels(image: UInt8[Tensor, "3 s s"], patch: Patch) -> UInt8[Tensor, "3 h w"]:
    """The drawn view: cut, rescaled, flipped, recoloured in the drawn order."""
    w, h = patch.view_wh
    pixels = resize(cut(image, patch.view), (h, w))
    if patch.flip:
        pixels = pixels.flip(2)
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for number in patch.order:
        pixels = steps[number](pixels, patch.jitter[number])
    return pixels


def cut(image: UInt8[Tensor, "3 s s"], box: tuple[int, int, int, int]) -> UInt8[Tensor, "3 h w"]:
    """The pixels inside `box`."""
    x1, y1, x2, y2 = box
    return image[:, y1:y2, x1:x2]
