"""A training step of our FPN detector against torchvision's own `fasterrcnn_resnet50_fpn_v2`; quick@1's in both precisions.

    python benchmarks/detection.py [--repeats 5] [--device cpu] [--side 320] [--batch 2] [--case all]

Both are Faster R-CNN on a resnet50, with norms in the pyramid and in the 4conv1fc head. torchvision's RPN has two convolutions
where paper.md C asks for one, so a second case takes one away: the same size in every layer. Same images, boxes and counts of
anchors, proposals and regions; forward, backward and SGD, in alternation in one run, one thread; the ratio of each pair of
repeats, its median and a 95 % bootstrap interval. On a CPU it is the processor's seconds, since others want the cores too.
The last case is detection/quick@1 as it runs, resnet18 and four images, bfloat16 (ours) against fp32 (other).
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.rpn import RPNHead

from insloc_eval.detection.build import build_detector
from insloc_eval.detection.schedule import make_optimizer
from insloc_eval.protocols.detection import COCO_FPN_1X, QUICK, Detection

CLASSES = 20
REACH = 0.95


def main() -> None:
    """Print one JSON line per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--case", choices=("all", "torchvision", "precision"), default="all")
    ask = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(ask.device)
    if ask.case in ("all", "torchvision"):
        against_torchvision(ask, device)
    if ask.case in ("all", "precision"):
        low_against_full(ask, device)


def against_torchvision(ask: argparse.Namespace, device: torch.device) -> None:
    """Two cases."""
    protocol = QUICK if ask.side <= 320 else replace(COCO_FPN_1X, mask=False)
    given = scene(ask.batch, ask.side, device)
    ours = step_of(our_detector(protocol, "resnet50").to(device), protocol, *given)
    what = f"training step, resnet50, {ask.batch} images, short side {ask.side}, {ask.device}"
    for case, convs in (
        ("torchvision as it is, RPN of two convolutions", 2),
        ("torchvision, RPN of one convolution, as ours", 1),
    ):
        theirs = step_of(their_detector(protocol, ask.side, convs).to(device), protocol, *given)
        report(f"{what}; {case}", alternate(ours, theirs, ask.repeats, device), ask.device, REACH)


def low_against_full(ask: argparse.Namespace, device: torch.device) -> None:
    """One case."""
    given = scene(QUICK.batch, QUICK.train_short_px[0], device)
    low, full = (step_of(our_detector(QUICK, "resnet18").to(device), QUICK, *given, low=low) for low in (True, False))
    what = f"detection/quick@1's training step, resnet18, {QUICK.batch} images, {ask.device}; bfloat16 against fp32"
    report(what, alternate(low, full, ask.repeats, device), ask.device, 1.0)


def scene(batch: int, side: int, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Noise of 3:4 and ten boxes an image, which is enough for every loss to have its positives."""
    generator = torch.Generator().manual_seed(0)
    wide = side * 4 // 3
    images = [torch.rand(3, side, wide, generator=generator).to(device) for _ in range(batch)]
    targets = []
    for _ in range(batch):
        sides = side * (0.1 + 0.4 * torch.rand(10, 2, generator=generator))
        corner = torch.rand(10, 2, generator=generator) * (torch.tensor([wide, side]) - sides)
        labels = torch.randint(1, CLASSES + 1, (10,), generator=generator)
        targets.append({"boxes": torch.cat([corner, corner + sides], dim=1).to(device), "labels": labels.to(device)})
    return images, targets


def our_detector(protocol: Detection, arch: str) -> nn.Module:
    """On timm's network."""
    return build_detector(protocol, timm.create_model(arch, num_classes=0), classes=CLASSES, seed=0)


def their_detector(protocol: Detection, side: int, convs: int) -> nn.Module:
    """With the protocol's counts, everything trained, and an RPN of `convs` convolutions (2 is its own)."""
    made = fasterrcnn_resnet50_fpn_v2(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        trainable_backbone_layers=5,
        min_size=side,
        rpn_pre_nms_top_n_train=protocol.rpn_pre_train,
        rpn_post_nms_top_n_train=protocol.rpn_post_train,
        rpn_batch_size_per_image=protocol.rpn_batch,
        box_batch_size_per_image=protocol.roi_batch,
    )
    if convs == 1:
        made.rpn.head = RPNHead(256, made.rpn.anchor_generator.num_anchors_per_location()[0])
    return made.train()


def step_of(
    detector: nn.Module, protocol: Detection, images: list[Tensor], targets: list[dict[str, Tensor]], low: bool = False
) -> Callable[[], None]:
    """Forward, backward, SGD; `low`: the forward pass in bfloat16 by autocast, as --precision bf16."""
    optimizer = make_optimizer(detector, replace(protocol, lr=1e-5))

    def step() -> None:
        torch.manual_seed(0)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images[0].device.type, torch.bfloat16, enabled=low):
            losses = detector(images, targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return step


def alternate(
    ours: Callable[[], None], theirs: Callable[[], None], repeats: int, device: torch.device
) -> list[tuple[float, float]]:
    """Processor seconds of each pair on a CPU (others want the cores too), wall seconds on an accelerator; one warm-up."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    pairs = []
    for repeat in range(repeats + 1):
        seconds = []
        for step in (ours, theirs):
            begun = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(clock() - begun)
        if repeat:
            pairs.append((seconds[0], seconds[1]))
    return pairs


def report(case: str, pairs: list[tuple[float, float]], device: str, reach: float) -> None:
    """One JSON line."""
    mine, other = np.array(pairs).T
    ratios = other / mine
    draws = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    line = {
        "benchmark": "detection",
        "case": case,
        "ours": round(float(np.median(mine)), 4),
        "other": round(float(np.median(other)), 4),
        "unit": "s" if device != "cpu" else "processor s",
        "ratio": round(float(np.median(ratios)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "reach": reach,
        "holds": bool(low >= reach),
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
