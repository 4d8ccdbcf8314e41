"""boxes/linear: a map that encodes the box gives it back; a constant one gives the mean box; what is left out is counted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from insloc_eval.job import Job, NotApplicable
from insloc_eval.protocols import BOXES_LINEAR
from insloc_eval.tasks import boxes
from insloc_eval.tasks.boxes import constant_box, ordered
from insloc_eval.tasks.composite_draws import iou_rows
from insloc_hub.models.extractor import Extractor

MakeJob = Callable[..., Job]
MadeUp = Callable[..., Extractor]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in two halves; each picture's box stands in the colours of its quarters, and in boxes.json."""
    folder = tmp_path_factory.mktemp("objects")
    generator = np.random.default_rng(0)
    known = {}
    for half, number in (("train", 120), ("val", 60)):
        (folder / half).mkdir()
        for i in range(number):
            x1, y1 = generator.integers(0, 30, 2)
            box = [int(x1), int(y1), int(x1 + generator.integers(20, 64 - x1)), int(y1 + generator.integers(20, 64 - y1))]
            name = f"{half}{i:03d}"
            known[name] = box
            pixels = np.zeros((64, 64, 3), np.uint8)
            for quarter, value in enumerate(box):
                row, column = divmod(quarter, 2)
                pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 4 * value
            Image.fromarray(pixels).save(folder / half / f"{name}.png")
    known |= {"train000": [0, 0, 64, 64], "train001": [5, 5, 6, 40], "val000": [0, 0, 64, 64], "val001": [0, 63, 64, 64]}
    (folder / "boxes.json").write_text(json.dumps(known))
    return folder


def quarters(images: Tensor, stride: int) -> Tensor:
    """The mean colour of each quarter."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 2)


def constant(images: Tensor, stride: int) -> Tensor:
    return torch.full((len(images), 3, 4, 4), 0.7)


def test_a_map_that_encodes_the_box_gives_it_back(objects: Path, make_job: MakeJob, made_up: MadeUp) -> None:
    result = boxes.run(make_job(BOXES_LINEAR, objects, made_up(3, quarters))).result
    assert result.metrics["miou"].value > 0.95 and result.metrics["corloc50"].value == 1.0
    assert result.metrics["miou_small"].value > 0.95
    assert result.counts["train_images"] == 118 and result.counts["test_images"] == 58
    dropped = {name: n for name, n in result.counts.items() if "dropped" in name}
    assert dropped == {f"{h}_boxes_dropped_{rule}": 1 for h in ("train", "test") for rule in ("whole_image", "sliver")}


def test_a_constant_map_gives_the_mean_box_and_less_than_a_constant_box(
    objects: Path, make_job: MakeJob, made_up: MadeUp
) -> None:
    job = make_job(BOXES_LINEAR, objects, made_up(3, constant))
    judged = boxes.run(job)
    assert job.split.boxes is not None
    usable = [one for key, one in job.split.boxes.train.items() if key not in ("train000.png", "train001.png")]
    mean_box = np.mean([one.scaled for one in usable], axis=0)
    truth = np.array([job.split.boxes.test[key].scaled for key in judged.outcomes["keys"]])
    assert judged.outcomes["miou"] == pytest.approx(iou_rows(truth, mean_box), abs=1e-5)
    row = judged.result.rows["constant box"]
    assert row["corloc50"] >= judged.result.metrics["corloc50"].value - 0.1 and set(row) == set(judged.result.metrics)


def test_small_objects_are_counted_apart_and_the_others_are_no_number(
    objects: Path, make_job: MakeJob, made_up: MadeUp
) -> None:
    job = make_job(BOXES_LINEAR, objects, made_up(3, quarters))
    judged = boxes.run(job)
    assert job.split.boxes is not None
    small = np.array([job.split.boxes.test[key].share < 0.5 for key in judged.outcomes["keys"]])
    assert (np.isnan(judged.outcomes["miou_small"]) == ~small).all() and small.any() and not small.all()
    assert judged.result.metrics["miou_small"].n == small.sum() == judged.result.counts["test_small_objects"]
    assert judged.result.metrics["miou_small"].value == pytest.approx(judged.outcomes["miou"][small].mean())


def test_the_constant_box_meets_most_training_boxes() -> None:
    known = np.array([[0.1, 0.1, 0.5, 0.5]] * 5 + [[0.6, 0.6, 0.9, 0.9]] * 4 + [[0.12, 0.1, 0.5, 0.5]])
    assert constant_box(known, 0.5).tolist() == [0.1, 0.1, 0.5, 0.5]


def test_predictions_are_made_boxes() -> None:
    assert ordered(torch.tensor([[0.5, 0.6, 0.2, 0.9], [-1.0, -1.0, 2.0, 2.0]])).tolist() == [
        pytest.approx([0.2, 0.6, 0.5, 0.9]),
        [0.0, 0.0, 1.0, 1.0],
    ]


def test_a_network_without_a_stride_16_map_is_not_applicable(objects: Path, make_job: MakeJob, made_up: MadeUp) -> None:
    coarse = made_up(3, quarters)
    coarse.channels = {32: 3}
    with pytest.raises(NotApplicable, match=r"has no map of stride 16; it has \[32\]"):
        boxes.run(make_job(BOXES_LINEAR, objects, coarse))
