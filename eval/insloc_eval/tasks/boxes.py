"""boxes/linear: the box of the image's object, read out of the frozen map by ridge regression (paper.md D.1).

The stride-16 map, average-pooled to 7 x 7, holds what the network keeps of where things are; a linear read-out finds it or
does not. Whole-image and sliver boxes are left out by rule, counted.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from insloc_eval.applies import need_input, need_stride
from insloc_eval.cache import kept
from insloc_eval.features import FeatureTable, feature_spec, gather
from insloc_eval.job import Job
from insloc_eval.objects import ObjectBox
from insloc_eval.protocols import Boxes
from insloc_eval.ridge import regress
from insloc_eval.sets import held_out, limited, unreadable
from insloc_eval.stats import mean, share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.tasks.composite_draws import iou_rows
from insloc_hub.data.folder import Sample
from insloc_hub.errors import BadData
from insloc_hub.shapes import Float

CANDIDATES = 500  # training boxes among which the constant box is looked for
FEWEST = 3  # images: two to fit and one to hold out


def run(job: Job) -> Judged:
    """CorLoc@.5 and mean IoU of the predicted box; the same over objects that are small in their image."""
    protocol, split = job.protocol, job.split
    assert isinstance(protocol, Boxes) and split.boxes is not None
    need_input(job.extractor, job.input_px)
    need_stride(job.extractor, protocol.stride)
    counts: dict[str, int] = {}
    halves = {"train": (split.train, split.boxes.train), "test": (split.test, split.boxes.test)}
    used = {half: _usable(protocol, one.samples, boxes, half, counts) for half, (one, boxes) in halves.items()}
    used["train"] = limited(used["train"], protocol.most_training)
    tables = {half: _table(job, protocol, used[half], half) for half in halves}
    for half, table in tables.items():
        if len(table.keys) < (FEWEST if half == "train" else 2):
            raise BadData(halves[half][0].root, f"{len(table.keys)} readable {half} images with a usable box are too few")
    known, truth = (_targets(tables[half], halves[half][1]) for half in ("train", "test"))
    keys = list(tables["train"].keys)
    out = torch.tensor(held_out(keys, [0] * len(keys), protocol.held_out))
    answer = regress(tables["train"].values, known, out, tables["test"].values, protocol.penalties, _mean_iou)
    outcomes = _outcomes(protocol, truth, ordered(answer.values))
    constant = torch.from_numpy(constant_box(known.numpy(), protocol.hit_iou)).expand_as(truth)
    notes = tuple(note for half, table in tables.items() for note in unreadable(table.skipped, half)[1])
    for half, table in tables.items():
        counts |= {f"{half}_images": len(table.keys), **unreadable(table.skipped, half)[0]}
    text = f"ridge penalty {answer.penalty:g}: mean IoU {answer.quality:.3f} on {int(out.sum())} held-out training images"
    counted = {name: values[~np.isnan(values)] for name, values in outcomes.items()}
    result = job.result(
        metrics={n: share(v) if n.startswith("corloc") else mean(v, "IoU") for n, v in counted.items()},
        rows={"constant box": {n: float(np.nanmean(v)) for n, v in _outcomes(protocol, truth, constant).items()}},
        counts={**counts, "test_small_objects": len(counted.get("miou_small", ()))},
        notes=(text, *notes),
    )
    return Judged(result=result, outcomes=outcomes_of(tables["test"].keys, **outcomes))


def _usable(
    protocol: Boxes, samples: tuple[Sample, ...], boxes: Mapping[str, ObjectBox], half: str, counts: dict[str, int]
) -> tuple[Sample, ...]:
    """The images whose box is a place to find; the others are counted by the rule that left them out."""
    whole = [s for s in samples if boxes[s.key].whole]
    slivers = [s for s in samples if not boxes[s.key].whole and _least_side(boxes[s.key]) < protocol.sliver]
    counts |= {f"{half}_boxes_dropped_whole_image": len(whole), f"{half}_boxes_dropped_sliver": len(slivers)}
    away = {s.key for s in (*whole, *slivers)}
    return tuple(s for s in samples if s.key not in away)


def _least_side(one: ObjectBox) -> float:
    x1, y1, x2, y2 = one.scaled
    return min(x2 - x1, y2 - y1)


def _table(job: Job, protocol: Boxes, samples: tuple[Sample, ...], half: str) -> FeatureTable:
    """[n c * pool * pool] of the images."""
    extractor, images = job.extractor, job.split.train if half == "train" else job.split.test
    transform = extractor.transform(protocol.transform, job.input_px)
    spec = feature_spec(
        extractor,
        protocol.transform,
        job.input_px,
        map=f"stride-{protocol.stride}",
        pooling=f"average to {protocol.pool} x {protocol.pool}",
    )

    def pool(inputs: Tensor) -> Tensor:
        maps = extractor.forward(inputs, [protocol.stride], pooled=False).maps[protocol.stride]
        return adaptive_avg_pool2d(maps, protocol.pool).flatten(1)

    label = f"{job.shown}: maps, {half}"
    compute = partial(gather, extractor, samples, label, lambda image: transform(image)[0], pool)
    return kept(extractor, replace(images, samples=samples), spec, job.cache, compute)


def _targets(table: FeatureTable, boxes: Mapping[str, ObjectBox]) -> Float[Tensor, "n 4"]:
    """XYXY in shares of the image, row by row of `table`."""
    return torch.tensor([boxes[key].scaled for key in table.keys], dtype=torch.float64)


def ordered(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Predicted boxes as boxes: inside the image, corners in order.

    >>> ordered(torch.tensor([[0.9, -0.1, 0.2, 1.3]])).tolist()[0]
    [0.20000000298023224, 0.0, 0.8999999761581421, 1.0]
    """
    inside = boxes.clamp(0, 1)
    first, second = inside[:, :2], inside[:, 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)


def constant_box(known: Float[np.ndarray, "n 4"], hit_iou: float) -> Float[np.ndarray, " 4"]:
    """The training box that meets most others, then has the largest mean IoU with them: what not looking can reach."""
    step = max(1, len(known) // CANDIDATES)
    candidates = known[::step]
    table = [iou_rows(known, one) for one in candidates]
    hits, means = np.array([(row >= hit_iou).mean() for row in table]), np.array([row.mean() for row in table])
    return np.asarray(candidates[np.lexsort((-means, -hits))[0]])


def _mean_iou(values: Tensor, truth: Tensor) -> float:
    return float(iou_rows(truth.double().numpy(), ordered(values.double()).numpy()).mean())


def _outcomes(protocol: Boxes, truth: Float[Tensor, "n 4"], found: Float[Tensor, "n 4"]) -> dict[str, np.ndarray]:
    """Per image; NaN where an object is not small. Without two small objects that part is left out."""
    ious = iou_rows(truth.numpy(), found.double().numpy())
    hits = (ious >= protocol.hit_iou).astype(np.float64)
    small = ((truth[:, 2:] - truth[:, :2]).prod(dim=1) < protocol.small).numpy()
    outcomes = {"corloc50": hits, "miou": ious}
    if small.sum() >= 2:
        outcomes |= {f"{name}_small": np.where(small, values, np.nan) for name, values in list(outcomes.items())}
    return outcomes
