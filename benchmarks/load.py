"""`create_model` of a local card, its sha256 checked, against timm's own create + load of the same folder.

    python benchmarks/load.py

Both ways in alternation in one run, two threads, the file in the system's cache; the ratio of each pair of repeats, its median
and a 95 % bootstrap interval. The case "without the hash" leaves out the one call that reads the file for its digest. The
models are compared tensor by tensor before anything is timed. The machine is shared, so only ratios are to be read.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from insloc_hub.checkpoints.folder import pretrained_cfg
from insloc_hub.files import sha256_file, write_json
from insloc_hub.models.create import create_model

REPEATS = 30
ARCHS = ("resnet18", "resnet50")
REACH = {"with the hash": 1 / 1.25, "without the hash": 1 / 1.10}  # of timm's time we may take 1.25 and 1.10


def main() -> None:
    """Print one JSON line per case."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as place:
        os.environ["INSLOC_HOME"] = place
        for arch in ARCHS:
            card = f"insloc_{arch}.benchmark"
            folder = Path(place) / "zoo" / card
            write_card(folder, arch)
            ours, other = contenders(card, folder)
            check_equal(ours(), other())
            report(arch, "with the hash", ours, other)
            with patch("insloc_hub.models.create.check_bytes"):
                report(arch, "without the hash", ours, other)


def write_card(folder: Path, arch: str) -> None:
    """A folder of the form that `insloc export` writes, with random weights."""
    folder.mkdir(parents=True)
    model = timm.create_model(arch, num_classes=0)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    digest = {"sha256": sha256_file(folder / "model.safetensors")}
    cfg = pretrained_cfg(arch, "benchmark")
    write_json(folder / "config.json", {"architecture": arch, "num_classes": 0, "pretrained_cfg": cfg, "insloc": digest})


def contenders(card: str, folder: Path) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module]]:
    """Ours and timm's."""
    return lambda: create_model(card), lambda: timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def check_equal(ours: nn.Module, other: nn.Module) -> None:
    """Stop if the two ways give different tensors."""
    a, b = ours.state_dict(), other.state_dict()
    if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
        raise SystemExit("the two ways load different models")


def report(arch: str, case: str, ours: Callable[[], nn.Module], other: Callable[[], nn.Module]) -> None:
    """Time the two in alternation and print the JSON line."""
    times = np.array([[seconds(ours), seconds(other)] for _ in range(REPEATS)])
    ratios = times[:, 1] / times[:, 0]
    draws = np.random.default_rng(0).choice(ratios, (2000, REPEATS))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    line = {
        "benchmark": "load",
        "case": f"{arch}, {case}",
        "ours": round(1 / float(np.median(times[:, 0])), 2),
        "other": round(1 / float(np.median(times[:, 1])), 2),
        "unit": "models/s",
        "ratio": round(float(np.median(ratios)), 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
        "reach": round(REACH[case], 3),
        "holds": bool(low >= REACH[case]),
        "machine": f"{platform.machine()}, 2 threads, torch {torch.__version__}, timm {timm.__version__}",
    }
    print(json.dumps(line), flush=True)


def seconds(work: Callable[[], nn.Module]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
