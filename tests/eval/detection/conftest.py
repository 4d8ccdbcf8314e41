"""Small protocols, one small trunk, and pictures with boxes and masks: what the detectors' tests share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from insloc_eval.protocols.detection import QUICK, QUICK_C4, Detection

TRUNK = "resnet10t"


@pytest.fixture
def tiny() -> Callable[..., Detection]:
    """tiny(variant, **changed fields): a protocol of seconds, for pictures of about 64 px."""

    def make(variant: str = "fpn", **changes: Any) -> Detection:
        small = {
            "train_short_px": (64,),
            "test_short_px": 64,
            "longest_px": 128,
            "rpn_pre_train": 100,
            "rpn_post_train": 50,
            "rpn_batch": 32,
            "roi_batch": 16,
            "batch": 2,
            "precise_bn_batches": 2,
        }
        return replace(QUICK_C4 if variant == "c4" else QUICK, **{**small, **changes})

    return make


@pytest.fixture(scope="session")
def trunk() -> nn.Module:
    """A small ResNet; don't change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = timm.create_model(TRUNK, num_classes=0)
    return made


@pytest.fixture
def scene() -> Callable[..., tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """scene(): two pictures of different sizes, and their targets with boxes, labels and masks of filled boxes."""

    def make(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        generator = torch.Generator().manual_seed(seed)
        sizes = [(64, 96), (60, 80)]
        images = [torch.rand(3, h, w, generator=generator, dtype=dtype) for h, w in sizes]
        rows = [[[4.0, 6, 40, 50], [50, 10, 90, 30]], [[8.0, 8, 70, 52]]]
        labels = [[1, 2], [2]]
        targets = []
        for (h, w), boxes, kinds in zip(sizes, rows, labels, strict=True):
            masks = torch.zeros(len(boxes), h, w, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
                mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
            targets.append({"boxes": torch.tensor(boxes, dtype=dtype), "labels": torch.tensor(kinds), "masks": masks})
        return images, targets

    return make
