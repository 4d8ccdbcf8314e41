"""linear/moco on a tiny network: its schedule, its views, its solver, and a trunk that does not move."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from insloc_eval.job import Job
from insloc_eval.protocols.linear import LINEAR_MOCO
from insloc_eval.tasks import moco
from insloc_eval.tasks.moco import centre_view, learn, learning_rate, new_head, train_view
from insloc_hub.data.transform import InputFacts
from insloc_hub.models.create import weights_digest
from insloc_hub.models.extractor import Extractor

PLAIN = InputFacts(size=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_the_learning_rate_is_30_and_falls_to_a_tenth_at_60_and_80_of_100_epochs() -> None:
    rates = [learning_rate(epoch, LINEAR_MOCO) for epoch in range(LINEAR_MOCO.epochs)]
    assert rates == pytest.approx([30.0] * 60 + [3.0] * 20 + [0.3] * 20)


def test_an_epoch_is_that_of_torchs_sgd() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    protocol = replace(LINEAR_MOCO, batch=16, weight_decay=0.01)
    head = new_head(3, 6, protocol, seed=1)
    plain = nn.Linear(6, 3)
    plain.weight.data.copy_(head[0])
    plain.bias.data.zero_()
    solver = torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    velocity = [torch.zeros_like(part) for part in head]
    for _ in range(2):
        learn(head, velocity, rows, labels, 0.5, protocol)
        for start in range(0, 40, 16):
            solver.zero_grad()
            cross_entropy(plain(rows[start : start + 16]), labels[start : start + 16]).backward()
            solver.step()
    assert torch.allclose(head[0], plain.weight, atol=1e-5) and torch.allclose(head[1], plain.bias, atol=1e-5)
    assert float(new_head(200, 512, LINEAR_MOCO, seed=0)[0].std()) == pytest.approx(0.01, rel=0.02)


def test_training_crops_have_torchvisions_distribution_of_area_and_flip_half_of_the_time() -> None:
    ramp = torch.arange(64, dtype=torch.uint8)[None, None, :].expand(3, 64, 64).contiguous()  # x is the brightness
    draw = np.random.default_rng(0)
    views = [train_view(ramp, 32, LINEAR_MOCO, PLAIN, draw) * 255 for _ in range(400)]
    flipped = np.mean([float(view[0, 0, 0]) > float(view[0, 0, -1]) for view in views])
    widths = [abs(float(view[0, 0, -1] - view[0, 0, 0])) for view in views]
    assert all(view.shape == (3, 32, 32) for view in views) and 0.43 < flipped < 0.57
    torch.manual_seed(0)
    from torchvision.transforms import RandomResizedCrop

    known = [RandomResizedCrop.get_params(ramp, list(LINEAR_MOCO.crop_area), list(LINEAR_MOCO.crop_aspect))[3] for _ in widths]
    assert np.mean(widths) == pytest.approx(np.mean(known), rel=0.06)


@pytest.mark.parametrize("shape", [(80, 60), (60, 80), (64, 64), (20, 200)])
def test_a_test_view_is_the_centre_of_the_image_resized_by_its_short_side(shape: tuple[int, int]) -> None:
    h, w = shape
    y, x = torch.meshgrid(torch.linspace(0, 200, h), torch.linspace(0, 200, w), indexing="ij")
    image = torch.stack([x, y, x]).to(torch.uint8)
    view = centre_view(image, 56, LINEAR_MOCO, PLAIN) * 255
    assert view.shape == (3, 56, 56)
    assert view.mean(dim=(1, 2)).tolist() == pytest.approx([99.5] * 3, abs=2)
    across = 200 * 56 / 64 * min(h, w) / w
    assert float(view[0, 28, -1] - view[0, 28, 0]) == pytest.approx(across, rel=0.06)


class Tiny(nn.Module):
    """A network of one BatchNorm, whose statistics would move in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.pretrained_cfg = {"architecture": "resnet18", "input_size": (3, 64, 64), "mean": (0.0,) * 3, "std": (1.0,) * 3}
        self.feature_info = [{"reduction": 32, "num_chs": 3, "module": "a"}]

    def forward_intermediates(self, images: Tensor, indices: list[int], **_: object) -> list[Tensor]:
        return [self.norm(images)]

    def forward_features(self, images: Tensor) -> Tensor:
        out: Tensor = self.norm(images)
        return out

    def forward_head(self, final: Tensor, pre_logits: bool) -> Tensor:
        return final.mean(dim=(2, 3))


def colours(folder: Path) -> Path:
    for half, count in (("train", 6), ("val", 3)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (folder / half / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (30 + number, 30), colour).save(folder / half / name / f"{number}.png")
    return folder


def test_a_tiny_network_is_read_out_and_its_batchnorm_does_not_move(make_job: Callable[..., Job], tmp_path: Path) -> None:
    extractor = Extractor(Tiny(), "tiny", torch.device("cpu"), "fp32")
    short = replace(LINEAR_MOCO, epochs=8, drops=(5, 7))
    job = make_job(short, colours(tmp_path / "data"), extractor)
    before = weights_digest(extractor.model)
    result = moco.run(job).result
    assert result.metrics["top1"].value == 1.0 == result.metrics["top1_best_on_val"].value
    assert result.counts["epochs"] == 8 and result.counts["train_images"] == 12
    assert weights_digest(extractor.model) == before and int(extractor.model.norm.num_batches_tracked) == 0
    assert not (tmp_path / "cache").exists()  # augmented features are not kept
    again = moco.run(make_job(short, tmp_path / "data", extractor)).result
    assert again.metrics == result.metrics and again.id == result.id
