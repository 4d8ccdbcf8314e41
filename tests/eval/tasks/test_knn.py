"""Nearest neighbours: the vote of a slow loop, and what is said about k."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from insloc_eval.job import Job
from insloc_eval.protocols.linear import KNN_DINO, LINEAR_LOGISTIC
from insloc_eval.tasks import knn, linear
from insloc_eval.tasks.knn import nearest_votes
from insloc_hub.models.extractor import Extractor


@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_votes_are_those_of_a_slow_loop(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(30, 6, generator=generator), torch.randn(5, 6, generator=generator)
    labels = torch.randint(0, 4, (30,), generator=generator)
    ours = nearest_votes(train, labels, test, 4, (7, k), 0.07)[k]
    for row, votes in zip(test, ours, strict=True):
        cosines = [float(row @ t / (row.norm() * t.norm())) for t in train]
        near = sorted(range(30), key=lambda i: -cosines[i])[:k]
        slow = torch.zeros(4)
        for i in near:
            slow[labels[i]] += math.exp((cosines[i] - cosines[near[0]]) / 0.07)
        assert torch.allclose(votes, slow, atol=1e-5)


def test_the_length_of_a_vector_does_not_matter() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    votes = nearest_votes(train * torch.tensor([[9.0], [0.1]]), torch.tensor([0, 1]), torch.tensor([[0.1, 0.2]]), 2, (1,), 0.07)
    assert votes[1].argmax() == 1


def test_the_record_has_k_temperature_norm_and_crop_and_only_the_k_that_there_are(
    fill: Callable[..., Path], make_job: Callable[..., Job], tmp_path: Path, made_up: Callable[..., Extractor]
) -> None:
    data = fill(tmp_path / "data", {f"{half}/{name}": 6 for half in ("train", "val") for name in "ab"})

    def brightness(images: Tensor, stride: int) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, (2, 2))

    result = knn.run(make_job(KNN_DINO, data, made_up(3, brightness))).result
    assert list(result.metrics) == ["top1", "top1_k10"]  # 12 training images
    assert "k 20 means all 12 training images" in result.notes
    assert any("temperature 0.07, L2 norm, whole image" in note for note in result.notes)


def test_knn_and_the_logistic_read_out_share_their_features(
    fill: Callable[..., Path], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    data = fill(tmp_path / "data", {f"{half}/{name}": 3 for half in ("train", "val") for name in "ab"})
    linear.run(make_job(LINEAR_LOGISTIC, data))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    knn.run(make_job(KNN_DINO, data))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == stamps
    assert len(stamps) == 2
