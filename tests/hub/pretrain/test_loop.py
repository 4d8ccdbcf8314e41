"""Batches by step, metrics, and stopping by signal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from insloc_hub.data.cache import Pixels, load_pixels
from insloc_hub.data.folder import list_images
from insloc_hub.pretrain.batches import make_batch
from insloc_hub.pretrain.journal import cut_metrics
from insloc_hub.recipe import Recipe


@pytest.fixture(scope="module")
def pixels(photos: Path) -> Pixels:
    return load_pixels(list_images(photos), 128, 2**30)


def test_a_batch_is_a_function_of_the_step(pixels: Pixels, tiny: Callable[..., Recipe]) -> None:
    cpu = torch.device("cpu")
    one, again, later = (make_batch(pixels, tiny(), step, cpu) for step in (1, 1, 4))
    assert torch.equal(one.query, again.query) and torch.equal(one.key_boxes, again.key_boxes)
    assert not torch.equal(one.query, later.query)  # the same place in the next epoch: other draws
    assert not torch.equal(one.query, one.key) and not torch.equal(one.query_boxes, one.key_boxes)
    assert one.query.shape == (8, 3, 64, 64) and one.query.abs().max() < 3


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", []),
        ('{"step": 1}\n{"step": 2}\n', [1, 2]),
        ('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4}\n', [1, 2]),
        ('{"step": 1}\n{"step": 2, "lo', [1]),
        ('{"step": 3}\n{"step": 1}\n', [1]),
    ],
)
def test_metrics_are_cut_after_a_step_and_at_a_half_line(tmp_path: Path, text: str, kept: list[int]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    cut_metrics(path, 2)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == kept


def test_cutting_metrics_that_are_not_there_makes_none(tmp_path: Path) -> None:
    cut_metrics(tmp_path / "metrics.jsonl", 2)
    assert list(tmp_path.iterdir()) == []
