"""Small protocols, one small trunk, and pictures with boxes and masks: what the detectors' tests share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from insloc_eval.detection.data import Sample, objects_of
from insloc_eval.protocols.detection import QUICK, QUICK_C4, Detection
from insloc_hub.data import folder

TRUNK = "resnet10t"


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and lose a lot where something else wants the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., list[Sample]]:
    """pictures(n): grey pictures, wide and tall in turn, each with an ellipse and a rectangle, boxed and masked."""

    def make(number: int, long: int = 96, short: int = 64) -> list[Sample]:
        samples = []
        for index in range(number):
            w, h = (long, short) if index % 2 == 0 else (short, long)
            generator = torch.Generator().manual_seed(index)
            dx, dy = torch.randint(0, 12, (2,), generator=generator).tolist()
            first, second = (4 + dx, 4 + dy, 32 + dx, 28 + dy), (w - 30 - dx, h - 26 - dy, w - 4 - dx, h - 6 - dy)
            picture = Image.new("RGB", (w, h), (120, 120, 120))
            draw = ImageDraw.Draw(picture)
            x1, y1, x2, y2 = first
            draw.ellipse((x1, y1, x2 - 1, y2 - 1), fill=(220, 40, 40))
            draw.rectangle((second[0], second[1], second[2] - 1, second[3] - 1), fill=(40, 60, 220))
            path = tmp_path / f"{index}.png"
            picture.save(path)
            round_one = [v for a in range(16) for v in _on_ellipse(first, a / 16)]
            x1, y1, x2, y2 = second
            masks = [[round_one], [[x1, y1, x2, y1, x2, y2, x1, y2]]]
            objects = objects_of([first, second], masks=masks, labels=[0, 1])
            tile = folder.Sample(key=path.name, path=path)
            samples.append(Sample(key=path.name, image_id=index, tiles=(tile,), size_wh=(w, h), **objects))
        return samples

    return make


def _on_ellipse(box: tuple[int, int, int, int], turn: float) -> tuple[float, float]:
    angle = torch.tensor(2 * torch.pi * turn)
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2 + (x2 - x1) / 2 * angle.cos().item(), (y1 + y2) / 2 + (y2 - y1) / 2 * angle.sin().item()
