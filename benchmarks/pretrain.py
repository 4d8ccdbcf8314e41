"""The training loop (views made beside, metrics, watch) against the bare step: `pretrain.step` on fixed tensors.

    python benchmarks/pretrain.py

resnet18 C4, 128 px canvas, batch 32, two threads, images of the procedural world in memory. One run of the loop is
stopped between steps to take bare steps with a state of the same recipe, so the two alternate within seconds. Before
a bare block the loop's thread has made its batches ahead and sleeps; the loop's steps that live on those are not counted.
Blocks are compared by the time of their median step, since the machine is shared; only ratios are to be read.
"""

import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from insloc_hub.data.cache import Pixels, load_pixels
from insloc_hub.data.folder import list_images
from insloc_hub.demo.world import write
from insloc_hub.models.extractor import find_device
from insloc_hub.pretrain.batches import make_batch
from insloc_hub.pretrain.loop import Ends, train
from insloc_hub.pretrain.state import State, new_state
from insloc_hub.pretrain.step import train_step
from insloc_hub.recipe import Recipe
from insloc_hub.recipes import insloc_c4_small

BLOCKS = 16
LOOP_STEPS = 6  # counted, of each block
AHEAD = 3  # steps of each block that are fed with what was made while the bare steps ran
BARE_STEPS = 5  # of each block, the first not counted
QUIET_S = 0.5  # the loop's thread makes two batches ahead in this time
REACH = {"cpu": 0.90, "cuda": 0.95}


class Alternation:
    """The loop calls it after each step; it takes the times, and now and then bare steps. True ends the loop."""

    def __init__(self, bare: State, pixels: Pixels) -> None:
        self.bare = bare
        self.device = bare.anchors.device
        self.batch = make_batch(pixels, bare.recipe, 0, self.device)
        self.times: list[tuple[float, float]] = []
        """Seconds of a loop step and of a bare step, of each block."""
        self._steps: list[float] = []
        self._last = 0.0

    def __call__(self, step: int) -> bool:
        """Count the step; a bare block after each `AHEAD + LOOP_STEPS`."""
        self._synchronise()
        now = time.perf_counter()
        self._steps.append(now - self._last)
        if len(self._steps) == AHEAD + LOOP_STEPS:
            loop = float(np.median(self._steps[AHEAD:]))
            self.times.append((loop, self._bare_block()))
            self._steps.clear()
        self._last = time.perf_counter()
        return len(self.times) > BLOCKS  # the first block warms up

    def _bare_block(self) -> float:
        time.sleep(QUIET_S)
        seconds = []
        for _ in range(BARE_STEPS):
            start = time.perf_counter()
            train_step(self.bare, self.batch, 0.01)
            self._synchronise()
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[1:]))

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    """Print the JSON line."""
    torch.set_num_threads(2)
    device = find_device("auto")
    recipe = insloc_c4_small()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "world", seed=0, train_per_class=40, val_per_class=1, size=128)
        pixels = load_pixels(list_images(folder / "world" / "train"), 2 * recipe.canvas, 2**30)
        alternation = Alternation(new_state(recipe, device), pixels)
        run = folder / "run"
        run.mkdir()
        train(new_state(recipe, device), pixels, run, 10**6, Ends(stop=alternation))
    report(np.array(alternation.times[1:]), recipe, device)


def report(times: np.ndarray, recipe: Recipe, device: torch.device) -> None:
    """One JSON line: throughput of the loop over that of the bare step."""
    ratios = times[:, 1] / times[:, 0]
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    reach = REACH[device.type]
    line = {
        "benchmark": "pretrain",
        "case": f"{recipe.arch} {recipe.variant}, {recipe.canvas} px, batch {recipe.batch}, {device.type}",
        "ours": round(recipe.batch / float(np.median(times[:, 0])), 1),
        "other": round(recipe.batch / float(np.median(times[:, 1])), 1),
        "unit": "images/s",
        "ratio": round(float(np.median(ratios)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "reach": reach,
        "holds": bool(low >= reach),
        "machine": f"{platform.machine()}, 2 threads, torch {torch.__version__}",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
