"""Composite localization over the 46,080 candidates: the separable search (insloc_eval) against a loop of RoIAlign means.

    python benchmarks/composite.py

Each repeat takes the map of one procedural image and a query, scores every candidate both ways, in alternation, and checks
that both find the same candidate up to ties. The loop pools chunks of boxes with torchvision's RoIAlign, takes the mean and
the cosine; its best chunk size of three is used. The machine is shared, so only ratios are to be read.
"""

import json
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from insloc_eval.protocols import PATCHES_COMPOSITE as PROTOCOL
from insloc_eval.tasks.candidates import GridScorer, best
from insloc_eval.tasks.composite_draws import candidate_grid
from insloc_hub.data.transform import normalise
from insloc_hub.demo.world import draw
from insloc_hub.models.extractor import load

REPEATS = 5
REACH = 20.0  # ours
CHUNKS = (256, 1024, 4096)  # boxes a call of RoIAlign
ROUNDING = 1e-5  # cosines that differ by less are ties: the two ways add in another order
ARCHS = ("resnet18", "resnet50")  # 256 and 1,024 channels at stride 16


def main() -> None:
    """Print one JSON line per network."""
    torch.set_num_threads(1)
    for arch in ARCHS:
        extractor = load(f"random:{arch}", device="cpu")
        maps, queries = [], []
        for index in range(REPEATS):
            image = torch.from_numpy(draw(0, index, PROTOCOL.canvas).pixels).permute(2, 0, 1)
            inputs = normalise(image, extractor.facts)[None]
            maps.append(extractor.forward(inputs, [16], pooled=False).maps[16][0])
            queries.append(extractor.forward(inputs[..., 40:120, 50:140], [16], pooled=False).maps[16].mean(dim=(2, 3)))
        report(f"{arch}, {len(maps[0])} x 16 x 16", maps, queries)


def report(case: str, maps: list[Tensor], queries: list[Tensor]) -> None:
    """Time the two in alternation, one image a repeat, and print the JSON line. SystemExit: they find other candidates."""
    grid = candidate_grid(PROTOCOL)
    boxes = torch.from_numpy(grid.boxes()).float()
    scorer = GridScorer(grid, (16, 16), PROTOCOL.bins, maps[0])
    chunk = min(CHUNKS, key=lambda size: seconds(lambda: looped(maps[0], queries[0], boxes[:8192], size))[0])
    times = []
    for one_map, query in zip(maps, queries, strict=True):
        ours, scores = seconds(lambda m=one_map, q=query: scorer.scores(m, q)[0])
        other, slow = seconds(lambda m=one_map, q=query: looped(m, q, boxes, chunk))
        found = best(scores, PROTOCOL.tie)
        if float(slow[found]) < float(slow.max()) - ROUNDING:
            raise SystemExit(f"{case}: the two ways find other candidates, {found} and {int(slow.argmax())}")
        times.append([ours, other])
    ratios = np.array(times)[:, 1] / np.array(times)[:, 0]
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    line = {
        "benchmark": "composite",
        "case": case,
        "ours": round(1 / float(np.median(np.array(times)[:, 0])), 2),
        "other": round(1 / float(np.median(np.array(times)[:, 1])), 4),
        "unit": "images/s",
        "ratio": round(float(np.median(ratios)), 1),
        "low": round(float(low), 1),
        "high": round(float(high), 1),
        "reach": REACH,
        "holds": bool(low >= REACH),
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
    }
    print(json.dumps(line))


def looped(one_map: Tensor, query: Tensor, boxes: Tensor, chunk: int) -> Tensor:
    """Cosine of the query with the RoIAlign mean of each box, `chunk` boxes at a time."""
    scores = []
    for start in range(0, len(boxes), chunk):
        means = roi_align(one_map[None], [boxes[start : start + chunk]], PROTOCOL.bins, 1 / 16, 0, True).mean((2, 3))
        scores.append(torch.cosine_similarity(means, query, dim=1))
    return torch.cat(scores)


def seconds(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Wall time of one call, and what it gives."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
