"""patches/composite: where was this instance pasted? paper.md D.2: InsLoc's own pretext, never evidence alone.

A crop of one image is pasted on another; the candidate whose region mean is nearest to the query's vector is the answer.
Queries: the pasted pixels, another view of their image, and that view recoloured (the primary one: equal pixels win by
being equal).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insloc_eval.applies import fitted, need_input, need_stride, sides_of
from insloc_eval.features import BATCH, DECODERS, batches, check_finite, check_frozen, one_thread_each, reason
from insloc_eval.job import Job
from insloc_eval.protocols import Composite
from insloc_eval.sets import unreadable
from insloc_eval.stats import mean, share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.tasks.candidates import GridScorer, best, overlaps, success_map
from insloc_eval.tasks.composite_draws import (
    Placement,
    best_square,
    candidate_grid,
    centred,
    draw_placement,
    iou_rows,
    rates,
)
from insloc_hub.boxes.means import region_means
from insloc_hub.compositor.colour import apply_colour
from insloc_hub.compositor.paste import paste
from insloc_hub.data.folder import Sample, read_sample
from insloc_hub.data.transform import normalise, resize_plain
from insloc_hub.errors import BadData, BadImage
from insloc_hub.models.extractor import Extractor
from insloc_hub.progress import track
from insloc_hub.shapes import Float, UInt8

PRETEXT = "this is InsLoc's own pretext task: a model trained by it must win here, so it is never evidence alone"
QUERIES = ("", "_view", "_same")  # view + colour (the primary one), view, same pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What one image gives, before the network."""

    key: str
    size_wh: tuple[int, int]
    placement: Placement
    composite: UInt8[Tensor, "3 s s"]
    queries: dict[str, Tensor]
    """Suffix -> [3 h w] pixels in 0..255."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One image's answers."""

    key: str
    box: Float[np.ndarray, " 4"]
    ious: dict[str, float]
    """Suffix -> IoU of the chosen candidate."""
    best: float
    random: dict[str, float]
    """Expectation of a uniformly drawn candidate."""
    enlarged: bool


def run(job: Job) -> Judged:
    """Acc@.5, Acc@.7 and mIoU of three queries on the stride-16 map, image by image."""
    protocol = job.protocol
    assert isinstance(protocol, Composite)
    need_input(job.extractor, protocol.canvas)
    need_stride(job.extractor, protocol.stride)
    samples = job.split.test.samples
    searcher = Searcher(job.extractor, protocol)
    found: list[Found] = []
    sizes: list[tuple[int, int]] = []
    skipped: dict[str, str] = {}
    with track(f"{job.shown}: {protocol.name}", len(samples)) as progress, ThreadPoolExecutor(DECODERS) as threads:
        for some in batches(iter(samples), BATCH // 2):
            made = list(threads.map(lambda sample: make_picture(protocol, job.seed, sample, samples), some))
            skipped |= {s.key: reason(s, one) for s, one in zip(some, made, strict=True) if isinstance(one, BadImage)}
            good = [one for one in made if isinstance(one, Picture)]
            sizes += [one.size_wh for one in good]
            found += searcher.search(good)
            progress.advance(len(some))
    check_frozen(job.extractor)
    if len(found) < 2:
        raise BadData(job.split.test.root, f"only {len(found)} of {len(samples)} test images can be read")
    return _judged(job, protocol, found, sizes, skipped)


def make_picture(protocol: Composite, seed: int, sample: Sample, samples: tuple[Sample, ...]) -> Picture | BadImage:
    """The composite and the queries of one image; the error where it, or its background, can't be read."""
    try:
        image = read_sample(sample)
    except BadImage as error:
        return error
    size_wh = (image.shape[2], image.shape[1])
    placement = draw_placement(protocol, seed, sample.key, size_wh, len(samples))
    other = samples[int(placement.layout.background[0])]
    try:
        background = image if other == sample else read_sample(other)
    except BadImage as error:
        return BadImage(error.code, f"its background {other.key}: {reason(other, error)}")
    composite = paste([background], [image], placement.layout)[0]
    x1, y1, x2, y2 = placement.layout.box[0].tolist()
    left, top, right, bottom = placement.view
    w, h = placement.view_wh
    view = resize_plain(image[:, top:bottom, left:right], (h, w))
    coloured = apply_colour(view[None], placement.colour)[0].round().to(torch.uint8)
    queries = {"": coloured, "_view": view, "_same": composite[:, y1:y2, x1:x2]}
    return Picture(key=sample.key, size_wh=size_wh, placement=placement, composite=composite, queries=queries)


class Searcher:
    """A frozen network with the candidates, whose weights along each axis are built once."""

    def __init__(self, extractor: Extractor, protocol: Composite) -> None:
        self.extractor = extractor
        self.protocol = protocol
        self.grid = candidate_grid(protocol)
        self.boxes = self.grid.boxes()
        self.sides = sides_of(extractor, [protocol.stride])
        self.scorer: GridScorer | None = None

    def search(self, pictures: list[Picture]) -> list[Found]:
        """The best candidate for each query of each picture."""
        if not pictures:
            return []
        inputs = torch.stack([normalise(one.composite, self.extractor.facts) for one in pictures])
        maps = self._maps(inputs)
        check_finite(self.extractor, maps, [one.key for one in pictures])
        if self.scorer is None:
            self.scorer = GridScorer(self.grid, (maps.shape[2], maps.shape[3]), self.protocol.bins, maps)
        with one_thread_each() as threads, ThreadPoolExecutor(threads if maps.device.type == "cpu" else 1) as pool:
            return list(pool.map(self._find, pictures, maps))

    @torch.inference_mode()
    def _find(self, picture: Picture, one_map: Float[Tensor, "c h w"]) -> Found:
        assert self.scorer is not None
        taken = {name: fitted(one, self.sides) for name, one in picture.queries.items()}
        queries = torch.stack([self._vector(taken[name]) for name in QUERIES])
        scores = self.scorer.scores(one_map, queries)
        ious = overlaps(picture.placement.box, self.boxes)
        return Found(
            key=picture.key,
            box=picture.placement.box,
            ious={name: float(ious[best(row, self.protocol.tie)]) for name, row in zip(QUERIES, scores, strict=True)},
            best=float(ious.max()),
            random=rates(self.protocol, ious),
            enlarged=any(taken[name].shape != picture.queries[name].shape for name in QUERIES),
        )

    def _vector(self, pixels: UInt8[Tensor, "3 h w"]) -> Float[Tensor, " c"]:
        """Region mean over the whole extent of a query that is encoded alone."""
        maps = self._maps(normalise(pixels, self.extractor.facts)[None])
        box = torch.tensor([[0, 0, pixels.shape[2], pixels.shape[1]]]).to(maps)
        return region_means(maps, [box], 1 / self.protocol.stride, bins=self.protocol.bins)[0][0]

    def _maps(self, inputs: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c hh ww"]:
        return self.extractor.forward(inputs, [self.protocol.stride], pooled=False).maps[self.protocol.stride]


def _judged(job: Job, protocol: Composite, found: list[Found], sizes: list[tuple[int, int]], skipped: dict[str, str]) -> Judged:
    outcomes: dict[str, np.ndarray] = {}
    for suffix in QUERIES:
        ious = np.array([one.ious[suffix] for one in found])
        for hit in protocol.hits:
            outcomes[f"acc{round(100 * hit)}{suffix}"] = (ious >= hit).astype(np.float64)
        outcomes[f"miou{suffix}"] = ious
    rows = reference_rows(protocol, found, sizes)
    counts, notes = unreadable(skipped, "test")
    enlarged = sum(one.enlarged for one in found)
    if enlarged:
        counts["queries_enlarged"] = enlarged
        notes += (f"{enlarged} queries were enlarged: this network takes no input of their size",)
    if not protocol.by_family:
        known = max(row["acc50"] for name, row in rows.items() if "constant" in name)
        notes = (f"WARNING: a constant box reaches {known:.2f} at Acc@.5 without looking: this range shows nothing", *notes)
    table = success_map(np.array([one.box for one in found]), outcomes["acc50"], protocol.canvas)
    result = job.result(
        metrics={n: mean(v, "IoU") if n.startswith("miou") else share(v) for n, v in outcomes.items()},
        rows=rows,
        counts={"test_images": len(found), "candidates": len(candidate_grid(protocol).boxes()), **counts},
        notes=(PRETEXT, *notes),
        maps={"acc50 by where it was pasted": table} if table else {},
    )
    return Judged(result=result, outcomes=outcomes_of(tuple(one.key for one in found), **outcomes))


def reference_rows(protocol: Composite, found: list[Found], sizes: list[tuple[int, int]]) -> dict[str, dict[str, float]]:
    """What needs no network: constant boxes, a random candidate (its exact expectation), each box's best candidate."""
    boxes = np.array([one.box for one in found])
    square = best_square(protocol, sizes)
    constant = iou_rows(boxes, np.array(protocol.constant, np.float64))
    return {
        "constant box": rates(protocol, constant),
        f"best constant square, {square} px": rates(protocol, iou_rows(boxes, centred(square, protocol.canvas))),
        "random candidate": {name: float(np.mean([one.random[name] for one in found])) for name in found[0].random},
        "oracle": rates(protocol, np.array([one.best for one in found])),
    }
