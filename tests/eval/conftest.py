"""Small folders and one tiny network: what the judge's tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from insloc_eval.job import Job, data_facts
from insloc_eval.protocols import Protocol
from insloc_eval.sets import load_split
from insloc_eval.stats import ONE_SEED, share
from insloc_eval.store import Judged, outcomes_of
from insloc_hub.models.extractor import Extractor, load
from insloc_hub.records import DataFacts, ModelFacts, Result

ARCH = "resnet18"


class MadeUp(nn.Module):
    """A network whose maps at strides 16 and 32 are written down by a function of (images, stride)."""

    def __init__(self, channels: int, give: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.give = give
        self.pretrained_cfg = {
            "architecture": "resnet18",
            "input_size": (3, 64, 64),
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        }
        self.feature_info = [
            {"reduction": 16, "num_chs": channels, "module": "a"},
            {"reduction": 32, "num_chs": channels, "module": "b"},
        ]
        self.weight = nn.Parameter(torch.zeros(1))
        self.a, self.b = nn.Identity(), nn.Identity()  # what feature_info names: no last stage

    def forward_intermediates(self, images: Tensor, indices: list[int], **_: object) -> list[Tensor]:
        return [self.give(images, (16, 32)[index]) for index in indices]

    def forward_features(self, images: Tensor) -> Tensor:
        return self.give(images, 32)

    def forward_head(self, final: Tensor, pre_logits: bool) -> Tensor:
        return final.mean(dim=(2, 3))


@pytest.fixture
def made_up() -> Callable[..., Extractor]:
    """made_up(channels, give): an extractor with the maps that give(images, stride) writes down."""

    def make(channels: int, give: Callable[[Tensor, int], Tensor]) -> Extractor:
        return Extractor(MadeUp(channels, give), "made up", torch.device("cpu"), "fp32")

    return make


@pytest.fixture(scope="session")
def network() -> Extractor:
    return load(f"random:{ARCH}", device="cpu")


@pytest.fixture
def fill() -> Callable[..., Path]:
    """fill(folder, {"train/a": 3}) writes three small pictures, each with pixels of its own, into folder/train/a."""

    def write(folder: Path, wanted: dict[str, int], size: tuple[int, int] = (40, 32)) -> Path:
        for place, number in wanted.items():
            (folder / place).mkdir(parents=True, exist_ok=True)
            for index in range(number):
                generator = np.random.default_rng([len(place), *place.encode(), index])
                coarse = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)
                image.save(folder / place / f"{index:03d}.png")
        return folder

    return write


@pytest.fixture
def make_job(network: Extractor, tmp_path: Path) -> Callable[..., Job]:
    """A job of the tiny network, or of another extractor, on a folder."""

    def make(protocol: Protocol, data: Path, extractor: Extractor | None = None) -> Job:
        split = load_split(data, labels=protocol.needs_labels, boxes=protocol.needs_boxes)
        return Job(
            extractor=extractor or network,
            protocol=protocol,
            split=split,
            data=data_facts(split, protocol),
            seed=0,
            cache=tmp_path / "cache",
            shown="tiny",
            out=tmp_path / "results",
        )

    return make


@pytest.fixture
def make_record() -> Callable[..., Judged]:
    """make_record(spec, outcomes, **changed fields): a record whose top1 has these outcomes on 0.png, 1.png, ..."""

    def make(spec: str, outcomes: list[float], **changes: Any) -> Judged:
        values = np.array(outcomes, dtype=np.float64)
        fields: dict[str, Any] = {
            "task": "linear",
            "protocol": "linear/logistic@1",
            "protocol_hash": "ab" * 32,
            "model": ModelFacts(spec=spec, arch="resnet18", sha256=spec.encode().hex()),
            "data": DataFacts(name="photos", split="test of train/ and val/", fingerprint="cd" * 32, n=len(values)),
            "pretrain_seed": None,
            "eval_seed": 0,
            "metrics": {"top1": share(values)},
            "rows": {"chance": {"top1": 0.1}},
            "notes": (ONE_SEED,),
            **changes,
        }
        keys = tuple(f"{i}.png" for i in range(len(values)))
        return Judged(result=Result(**fields), outcomes=outcomes_of(keys, top1=values))

    return make
