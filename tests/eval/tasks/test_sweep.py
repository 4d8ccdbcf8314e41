"""linear/sweep as a task: three numbers side by side, from features that other tasks share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_eval.job import Job
from insloc_eval.protocols.linear import LINEAR_SWEEP
from insloc_eval.tasks import sweep
from insloc_hub.errors import BadData
from insloc_hub.models.create import weights_digest


def test_chosen_last_and_best_on_val_stand_side_by_side(world: Path, make_job: Callable[..., Job]) -> None:
    job = make_job(LINEAR_SWEEP, world)
    before = weights_digest(job.extractor.model)
    judged = sweep.run(job)
    metrics = judged.result.metrics
    assert set(metrics) == {f"top{k}{what}" for k in (1, 5) for what in ("", "_last", "_best_on_val")}
    assert metrics["top1_best_on_val"].value >= max(metrics["top1"].value, metrics["top1_last"].value)
    assert judged.result.counts["heads"] == 48 and judged.result.counts["held_out"] == 12
    assert "chosen of 48 heads: " in judged.result.notes[0] and "no result" in judged.result.notes[1]
    assert weights_digest(job.extractor.model) == before and not job.extractor.model.training


def test_classes_of_one_training_image_leave_nothing_to_choose_on(
    fill: Callable[..., Path], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    data = fill(tmp_path / "data", {"train/a": 1, "train/b": 1, "val/a": 2, "val/b": 2})
    with pytest.raises(BadData, match="no class has two training images"):
        sweep.run(make_job(LINEAR_SWEEP, data))
