"""Closed forms: what a network that knows everything, or nothing, must score on each task."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from insloc_eval.job import Job
from insloc_eval.protocols import LINEAR_LOGISTIC, PATCHES_LINEAR, PATCHES_RELOCATE
from insloc_eval.protocols.linear import KNN_DINO, LINEAR_SWEEP
from insloc_eval.tasks import TASKS, linear, patches
from insloc_eval.tasks.patches import cell_distances
from insloc_hub.models.extractor import Extractor

Fill = Callable[..., Path]
MakeJob = Callable[..., Job]
MadeUp = Callable[..., Extractor]
TRIED = [LINEAR_LOGISTIC, LINEAR_SWEEP, KNN_DINO, PATCHES_LINEAR, PATCHES_RELOCATE]


def side(images: Tensor, stride: int) -> tuple[int, int]:
    return -(-images.shape[2] // stride), -(-images.shape[3] // stride)


def positions(images: Tensor, stride: int) -> Tensor:
    """Channels: x and y of each map cell, and a constant."""
    h, w = side(images, stride)
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return torch.stack([x, y, torch.ones(h, w)]).expand(len(images), 3, h, w)


def constant(images: Tensor, stride: int) -> Tensor:
    return torch.full((len(images), 3, *side(images, stride)), 0.7)


def brightness(images: Tensor, stride: int) -> Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(images, side(images, stride))


def test_a_map_of_positions_finds_every_cell(fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp) -> None:
    judged = patches.run(make_job(PATCHES_LINEAR, fill(tmp_path / "data", {"x": 20}), made_up(3, positions)))
    metrics = judged.result.metrics
    assert (metrics["top1"].value, metrics["cell_distance"].value) == (1.0, 0.0)
    assert metrics["top1"].low < 0.6  # four images prove little


def test_a_constant_map_finds_one_cell_of_nine(fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp) -> None:
    judged = patches.run(make_job(PATCHES_LINEAR, fill(tmp_path / "data", {"x": 20}), made_up(3, constant)))
    assert judged.result.metrics["top1"].value == pytest.approx(1 / 9)
    assert judged.result.rows["chance"]["top1"] == pytest.approx(1 / 9)
    assert judged.outcomes["top1"].tolist() == pytest.approx([1 / 9] * 4)


def test_distances_between_cells_and_their_mean_by_chance() -> None:
    gaps = cell_distances(3)
    assert gaps[0].tolist() == pytest.approx([0, 1, 2, 1, 2**0.5, 5**0.5, 2, 5**0.5, 8**0.5])
    assert (gaps == gaps.T).all()
    assert gaps.mean() == pytest.approx((24 + 12 * 2 + 16 * 2**0.5 + 16 * 5**0.5 + 4 * 8**0.5) / 81)


def test_features_that_hold_the_class_are_read_out_in_full(make_job: MakeJob, tmp_path: Path, made_up: MadeUp) -> None:
    from PIL import Image

    colours = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
    for name, colour in colours.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (30 + number, 30), colour).save(tmp_path / "data" / name / f"{number}.png")
    judged = linear.run(make_job(LINEAR_LOGISTIC, tmp_path / "data", made_up(3, brightness)))
    result = judged.result
    assert result.metrics["top1"].value == 1.0 and result.metrics["top1"].n == 6
    assert list(result.metrics) == ["top1"]  # top-5 of three classes says nothing
    assert result.rows["chance"]["top1"] == pytest.approx(1 / 3)
    assert result.counts["classes"] == 3 and result.counts["train_images"] == 24


def test_features_without_content_find_the_most_common_class(
    fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp
) -> None:
    data = fill(tmp_path / "data", {"a": 30, **{name: 5 for name in "bcdefg"}})
    result = linear.run(make_job(LINEAR_LOGISTIC, data, made_up(3, constant))).result
    assert result.metrics["top1"].value == pytest.approx(6 / 12) == result.rows["most common class"]["top1"]
    assert result.metrics["top5"].value >= result.metrics["top1"].value
    assert result.rows["chance"]["top5"] == pytest.approx(5 / 7)


@pytest.mark.parametrize("protocol", TRIED, ids=lambda p: p.title)
def test_every_number_is_the_mean_of_its_outcomes_one_for_each_test_image(
    protocol: object, world: Path, make_job: MakeJob, made_up: MadeUp
) -> None:
    job = make_job(protocol, world, made_up(3, brightness))
    judged = TASKS[f"{job.protocol.family}/{job.protocol.name}"](job)
    assert judged.result.id == job.id
    assert judged.outcomes["keys"].tolist() == [s.key for s in job.split.test.samples]
    assert set(judged.outcomes) == {"keys", *judged.result.metrics}
    for name, metric in judged.result.metrics.items():
        assert metric.n == len(judged.outcomes[name]) == 36
        assert metric.value == pytest.approx(float(np.mean(judged.outcomes[name])))
        assert metric.low <= metric.value <= metric.high
    assert job.protocol.primary in judged.result.metrics


@pytest.mark.parametrize("protocol", TRIED, ids=lambda p: p.title)
def test_a_truncated_image_is_skipped_counted_and_named(
    protocol: object, fill: Fill, make_job: MakeJob, tmp_path: Path, made_up: MadeUp
) -> None:
    data = fill(tmp_path / "data", {"train/a": 6, "train/b": 6, "val/a": 4, "val/b": 4})
    for name in ("val/a/001.png", "train/b/002.png"):
        (data / name).write_bytes((data / name).read_bytes()[:-40])
    job = make_job(protocol, data, made_up(3, brightness))
    judged = TASKS[f"{job.protocol.family}/{job.protocol.name}"](job)
    assert judged.result.counts["test_unreadable"] == 1 and judged.result.counts["test_images"] == 7
    assert any("a/001.png" in note for note in judged.result.notes)
    assert "a/001.png" not in judged.outcomes["keys"]
    assert judged.result.data.n == 8 and judged.result.metrics[job.protocol.primary].n == 7
    assert judged.result.counts.get("train_unreadable", 0) == job.protocol.needs_training


def test_the_table_holds_a_task_for_every_protocol() -> None:
    from insloc_eval.protocols import PROTOCOLS

    assert set(TASKS) == {f"{p.family}/{p.name}" for p in PROTOCOLS}
