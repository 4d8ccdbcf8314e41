"""Region means of one map: one matrix product (insloc_hub.boxes.means) against torchvision's RoIAlign and a mean.

    python benchmarks/region_means.py

Both ways in alternation in one run, two threads; the ratio of each pair of repeats, its median and a 95 % bootstrap
interval. The machine is shared, so only ratios are to be read. The values are compared before anything is timed.
"""

import json
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from insloc_hub.boxes.means import region_means

REPEATS = 40
REACH = 50.0  # ours; serving.md 6.3 saw 113 at 256 boxes
CASES = ((32, 1024, 14, 16), (256, 1024, 14, 16), (256, 2048, 7, 32))  # boxes, channels, side of the map, stride


def main() -> None:
    """Print one JSON line per case."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    for count, channels, side, stride in CASES:
        maps = torch.randn(1, channels, side, side, generator=generator)
        corners = torch.rand(count, 2, 2, generator=generator) * side * stride
        boxes = [torch.cat([corners.amin(1), corners.amax(1)], dim=1)]
        report(f"{count} boxes on {channels} x {side} x {side}", count, *contenders(maps, boxes, stride))


def contenders(maps: Tensor, boxes: list[Tensor], stride: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Ours and torchvision's, at equal (adaptive) sampling."""
    return (
        lambda: region_means(maps, boxes, 1 / stride)[0],
        lambda: roi_align(maps, boxes, 7, 1 / stride, 0, True).mean((2, 3)),
    )


def report(case: str, count: int, ours: Callable[[], Tensor], other: Callable[[], Tensor]) -> None:
    """Time the two in alternation and print the JSON line."""
    error = float((ours() - other()).abs().max())
    if error > 1e-4:
        raise SystemExit(f"{case}: the two ways differ by {error}")
    times = np.array([[seconds(ours), seconds(other)] for _ in range(REPEATS)])
    ratios = times[:, 1] / times[:, 0]
    draws = np.random.default_rng(0).choice(ratios, (2000, REPEATS))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    reach = REACH if count == 256 else 1.0
    line = {
        "benchmark": "region_means",
        "case": case,
        "ours": round(count / float(np.median(times[:, 0])), 1),
        "other": round(count / float(np.median(times[:, 1])), 1),
        "unit": "boxes/s",
        "ratio": round(float(np.median(ratios)), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
        "reach": reach,
        "holds": bool(low >= reach),
        "machine": f"{platform.machine()}, 2 threads, torch {torch.__version__}",
    }
    print(json.dumps(line))


def seconds(work: Callable[[], Tensor]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
