"""detection/*: a fine-tuning becomes a record with intervals, classes and curves; killed and resumed it is the same record."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import coco_content, write_coco
from PIL import Image
from scored import answer, sample

from insloc_eval.ask import Tuning
from insloc_eval.detection.draw import draw
from insloc_eval.detection.resume import trained_weights
from insloc_eval.detection.scores import matches_of, values
from insloc_eval.detection.train import _Run
from insloc_eval.job import OutOfTime
from insloc_eval.protocols.detection import QUICK, QUICK_C4, Detection
from insloc_eval.run import evaluate
from insloc_eval.store import load, record_path, sheet_path
from insloc_eval.tasks import detection
from insloc_eval.verify import verify
from insloc_hub.data.folder import Sample
from insloc_hub.errors import BadData, BadRun, InslocError
from insloc_hub.records import Result

MODEL = "random:resnet10t@3"
TINY: dict[str, Any] = {
    "train_short_px": (64,),
    "test_short_px": 64,
    "longest_px": 128,
    "rpn_pre_train": 60,
    "rpn_post_train": 20,
    "rpn_pre_test": 60,
    "rpn_post_test": 20,
    "rpn_batch": 32,
    "roi_batch": 8,
    "batch": 2,
    "steps": 4,
    "lr_drops": (3,),
    "warmup_steps": 1,
    "precise_bn_batches": 1,
    "score_floor": 0.0,  # a detector of four steps is sure of nothing
}


SMALL = replace(QUICK_C4, **TINY, name="quick")  # few weights: a training is saved five times


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Detection:
    """detection/quick of a second; the only protocol there is."""
    monkeypatch.setattr("insloc_eval.protocols.PROTOCOLS", (SMALL,))
    return SMALL


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it, don't write."""
    return write_coco(tmp_path_factory.mktemp("cells"), coco_content(5), coco_content(3, first=20))


def essence(result: Result) -> list[object]:
    return [result.id, result.metrics, result.by_class, result.curves, result.settings, result.counts, result.notes]


def ask(data: Path, out: Path, task: str = "detection/quick", **tuning: Any) -> list[Result]:
    return evaluate([MODEL], [task], data, out, device="cpu", tuning=Tuning(**tuning))


@pytest.fixture(scope="module")
def kept(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A run from end to end, and its folder; read it, don't write."""
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("insloc_eval.protocols.PROTOCOLS", (SMALL,))
        (result,) = ask(cells, out)
    return result, out


@pytest.fixture
def undisturbed(kept: tuple[Result, Path]) -> Result:
    return kept[0]


@pytest.fixture
def out(kept: tuple[Result, Path], tmp_path: Path) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(kept[1], tmp_path / "copied"))


def test_the_record_has_intervals_classes_curves_the_settings_and_a_sheet(kept) -> None:
    result, out = kept
    assert result.protocol == "detection/quick@1" and result.settings["steps"] == 4 and result.settings["init_parts"] == "trunk"
    assert {"AP", "AP50", "AP75", "APs"} <= set(result.metrics) and "APl" not in result.metrics  # nothing large is there
    assert all(m.unit == "points" and m.n == 3 and m.low <= m.value <= m.high for m in result.metrics.values())
    assert set(result.by_class["AP50"]) == {"cat", "dog"}
    assert [step for step, _ in result.curves["AP"]] == [1, 2, 3, 4]
    assert result.curves["AP"][-1][1] == result.metrics["AP"].value
    losses = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"]
    assert [name for name in result.curves if name.startswith("loss")] == losses
    assert all(len(result.curves[name]) == 4 for name in losses)
    assert result.counts["train_images"] == 5 and result.counts["test_objects"] == 3 and result.counts["detections"] > 0
    assert Image.open(sheet_path(out, "detection", result.id)).size == (960, 320)
    read = load(record_path(out, "detection", result.id))
    assert values(matches_of(read.outcomes, "")) == {name: metric.value for name, metric in result.metrics.items()}
    assert read.result.metrics == result.metrics and read.result.curves == result.curves


def test_a_finished_detector_is_not_trained_again(tiny, cells, out, undisturbed, monkeypatch) -> None:
    monkeypatch.setattr(detection, "train", None)
    (again,) = ask(cells, out)
    assert again.id == undisturbed.id and again.metrics == undisturbed.metrics


def dies(after: int, method: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which ends its process when it is called once more than `after` times."""
    calls = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise SystemExit("killed")
        return method(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize(("where", "after"), [("predict", 1), ("predict", 3), ("step", 2)])
def test_killed_and_run_again_it_gives_the_same_record(tiny, cells, tmp_path, undisturbed, monkeypatch, where, after) -> None:
    with monkeypatch.context() as patch:
        if where == "step":
            patch.setattr(_Run, "take", dies(after, _Run.take))
        else:
            patch.setattr(detection, where, dies(after, getattr(detection, where)))
        with pytest.raises(SystemExit):
            ask(cells, tmp_path / "killed")
    assert not list(tmp_path.glob("killed/detection/*.json"))
    (result,) = ask(cells, tmp_path / "killed")
    assert essence(result) == essence(undisturbed)


def test_ctrl_c_during_training_ends_the_run_and_keeps_what_is_done(tiny, cells, tmp_path, monkeypatch) -> None:
    real = detection.train
    monkeypatch.setattr(detection, "train", lambda *args, **kwargs: replace(real(*args, **kwargs), interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        ask(cells, tmp_path / "out")
    assert len(list((tmp_path / "out" / "detection").glob("*/detector.pt"))) == 1


def test_cut_by_a_time_limit_at_its_last_step_and_gone_on_with_it_gives_the_same_record(
    tiny, cells, tmp_path, undisturbed, monkeypatch
) -> None:
    real = detection.train
    with monkeypatch.context() as patch:
        late = {
            "deadline": 0.0
        }  # every step of the last quarter is behind it: here the last step, before the norms' statistics
        patch.setattr(detection, "train", lambda *args, **asked: real(*args, **asked | (late if asked["until"] == 4 else {})))
        with pytest.raises(OutOfTime):
            ask(cells, tmp_path / "out")
    kept, ended = trained_weights(next((tmp_path / "out" / "detection").iterdir()))
    assert kept and not ended and not list(tmp_path.glob("out/detection/*.json"))
    (result,) = ask(cells, tmp_path / "out")
    assert essence(result) == essence(undisturbed)


def test_behind_its_deadline_a_run_reads_what_is_finished_and_begins_nothing(tiny, cells, out, undisturbed) -> None:
    late = {"device": "cpu", "deadline": time.monotonic()}
    (again,) = evaluate([MODEL], ["detection/quick"], cells, out, **late)
    assert again.id == undisturbed.id
    with pytest.raises(OutOfTime):
        evaluate([MODEL], ["detection/quick"], cells, out, seed=1, **late)
    assert [path.stem for path in (out / "detection").glob("*.json")] == [undisturbed.id]


def test_seeds_are_records_of_their_own_and_no_random_network_is_trained_unasked(tiny, cells, tmp_path) -> None:
    results = ask(cells, tmp_path / "out", seeds=2, steps=1)
    assert [result.eval_seed for result in results] == [0, 1] and len({result.id for result in results}) == 2
    assert results[0].curves["loss_classifier"] != results[1].curves["loss_classifier"]
    assert {result.model.spec for result in results} == {MODEL}


def test_another_number_of_steps_is_said_and_is_another_record(tiny, cells, tmp_path, undisturbed) -> None:
    (result,) = ask(cells, tmp_path / "out", steps=2)
    assert result.protocol == "detection/quick@1+scaled" and result.id != undisturbed.id
    assert result.protocol_hash != undisturbed.protocol_hash and result.settings["steps"] == 2
    assert "--steps 2" in result.command
    again = verify(record_path(tmp_path / "out", "detection", result.id), model=MODEL, data=cells, device="cpu")
    assert again.reproduced and again.again.metrics == result.metrics


def test_a_pyramid_with_masks_is_scored(cells, tmp_path, monkeypatch) -> None:
    masks = replace(QUICK, **{**TINY, "steps": 2, "lr_drops": ()}, mask=True)
    monkeypatch.setattr("insloc_eval.protocols.PROTOCOLS", (masks,))
    (result,) = ask(cells, tmp_path / "masks")
    assert {"AP", "mask_AP", "mask_AP50"} <= set(result.metrics) and "loss_mask" in result.curves


def test_the_voc_metric_is_reported_with_and_without_the_rounding_of_text(tiny, cells, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("insloc_eval.protocols.PROTOCOLS", (replace(tiny, metric="voc", steps=1, lr_drops=()),))
    (result,) = ask(cells, tmp_path / "out")
    assert set(result.metrics) == {"AP", "AP50", "AP75", "AP_unrounded"}


def test_an_edited_number_is_named(out, undisturbed) -> None:
    path = record_path(out, "detection", undisturbed.id)
    content = json.loads(path.read_text())
    content["metrics"]["AP50"]["value"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(BadData, match="AP50 is not what its matches"):
        load(path)


def test_scores_along_the_way_of_another_run_or_damaged_are_refused(tiny, cells, out, undisturbed) -> None:
    record_path(out, "detection", undisturbed.id).unlink()
    marks = out / "detection" / undisturbed.id / "marks.json"
    for text, problem in (('{"identity": "x", "marks": {}}', "another run"), ("{", "damaged"), ('{"a": 1}', "damaged")):
        marks.write_text(text)
        with pytest.raises(BadRun, match=problem):
            ask(cells, out)


def test_a_picture_that_can_t_be_read_stops_the_run_by_name(tiny, tmp_path) -> None:
    cells = write_coco(tmp_path / "cells", coco_content(2), coco_content(3, first=20))
    (cells / "train2017" / "0001.jpg").write_bytes(b"no picture")
    with pytest.raises(InslocError, match=r"0001\.jpg"):
        ask(cells, tmp_path / "out")


def test_a_network_without_a_pyramid_gets_a_record_that_says_so(tiny, cells, tmp_path) -> None:
    (result,) = evaluate(["random:vit_tiny_patch16_224"], ["detection/quick"], cells, tmp_path / "out", device="cpu")
    assert result.metrics == {} and "vit_tiny_patch16_224" in result.not_applicable


def test_parts_of_a_model_that_has_none_are_refused_before_anything_is_trained(cells, tmp_path) -> None:
    with pytest.raises(InslocError, match="no pretrained neck or box head"):
        ask(cells, tmp_path / "out", init_parts="trunk+fpn")


@pytest.mark.parametrize(
    ("tasks", "options", "problem"),
    [
        (["detection/quick"], {"tuning": Tuning(seeds=0)}, "--seeds 0: must be at least 1"),
        (["detection/quick"], {"tuning": Tuning(steps=0)}, "--steps 0"),
        (["detection/quick"], {"half": "A"}, "detectors are asked on all test images"),
        (["patches/relocate"], {"tuning": Tuning(steps=9)}, "--steps is for detectors"),
    ],
)
def test_options_for_another_kind_of_task_are_refused(cells, tmp_path, tasks, options, problem) -> None:
    with pytest.raises(InslocError, match=problem):
        evaluate([MODEL], tasks, cells, tmp_path / "out", device="cpu", **options)


def test_the_drawn_sheet_shows_objects_and_sure_detections(cells) -> None:
    path = cells / "val2017" / "0020.jpg"
    one = replace(sample(1, [[4, 5, 24, 17]], [0]), tiles=(Sample("a", path),), size_wh=(40, 30))
    box = np.array([[10.0, 10, 30, 25], [0, 0, 20, 20]])
    sure, unsure = (draw(one, answer(box, np.array(scores), np.zeros(2)), ["cat"]) for scores in ([0.9, 0.2], [0.2, 0.2]))
    assert sure.size == (320, 240) and sure.getpixel((4 * 8, 17 * 8)) == (255, 255, 255)
    assert sure.getpixel((30 * 8, 25 * 8)) == (0xE6, 0x19, 0x4B) != unsure.getpixel((30 * 8, 25 * 8))
