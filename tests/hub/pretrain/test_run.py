"""A run folder: what stands in it, what is refused before it is made, what is skipped and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from insloc_hub.errors import BadData, BadRun, CannotWrite, InslocError, NotFinite, UnknownName
from insloc_hub.pretrain.loop import Finish
from insloc_hub.pretrain.resume import read_checkpoint
from insloc_hub.pretrain.run import read_run
from insloc_hub.recipe import Recipe, from_dict

Start = Callable[..., Finish]


def test_a_run_leaves_its_recipe_its_views_its_metrics_and_its_checkpoint(
    undisturbed: Path, tiny: Callable[..., Recipe]
) -> None:
    assert {path.name for path in undisturbed.iterdir()} == {"run.json", "views.png", "metrics.jsonl", "checkpoint.pt"}
    facts = read_run(undisturbed)
    recipe = from_dict(facts["recipe"])
    assert recipe == tiny(epochs=1)  # 6 steps of 8 in 72 images end in the first epoch
    assert facts["recipe_hash"] == recipe.hash() and facts["total_steps"] == 6
    assert facts["data"]["n"] == 72 and facts["data"]["name"] == "train" and facts["data"]["skipped"] == {}
    assert facts["env"]["torch"] and facts["env"]["timm"]
    with Image.open(undisturbed / "views.png") as views:
        assert views.width > 8 * 64 and views.height > 2 * 64


def test_metrics_have_a_line_per_step_that_can_be_believed(undisturbed: Path) -> None:
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert 0 < line["loss"] < 20 and all(0 <= value <= 1 for value in line["accuracy"])
        assert line["wait_s"] >= 0 and line["step_s"] > 0 and line["epoch"] == 0
    # Numbers are read a step late; the time must be the step's own, the last one's too.
    assert lines[-1]["step_s"] > 0.1 * sorted(line["step_s"] for line in lines)[3]


def test_nothing_of_the_machine_stands_in_the_run_file(undisturbed: Path) -> None:
    text = (undisturbed / "run.json").read_text()
    assert str(undisturbed.parent) not in text and str(Path.home()) not in text


def test_the_recipe_is_made_fit_for_few_images_and_says_so(
    start: Start, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "run", data=photos, steps=1)
    assert read_run(tmp_path / "run")["recipe"]["queue"] == 8
    assert "queue 32 -> 8: with 24 images" in capsys.readouterr().err


def test_a_second_start_in_the_same_folder_is_refused_and_changes_nothing(undisturbed: Path, start: Start) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in undisturbed.iterdir()}
    with pytest.raises(BadRun, match=r"holds a run already\. Add --resume to continue it, or choose another --out"):
        start(undisturbed)
    assert {path.name: path.stat().st_mtime_ns for path in undisturbed.iterdir()} == before


def test_a_run_that_died_before_its_first_checkpoint_can_be_started_again(
    undisturbed: Path, start: Start, tmp_path: Path
) -> None:
    for name in ("run.json", "metrics.jsonl", "views.png"):
        shutil.copy(undisturbed / name, tmp_path / name)
    start(tmp_path, steps=2)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.fixture
def spoiled(photos: Path, tmp_path: Path) -> Path:
    """24 images, three of which can't be read."""
    folder = Path(shutil.copytree(photos, tmp_path / "spoiled"))
    (folder / "03.jpg").write_text("no image")
    (folder / "07.jpg").write_bytes(b"")
    (folder / "11.jpg").write_bytes((folder / "11.jpg").read_bytes()[:300])
    return folder


def test_unreadable_images_are_skipped_counted_and_named(
    spoiled: Path, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(tmp_path / "run", data=spoiled, steps=1)
    facts = read_run(tmp_path / "run")["data"]
    assert sorted(facts["skipped"]) == ["03.jpg", "07.jpg", "11.jpg"] and facts["n"] == 21
    said = capsys.readouterr().err
    assert "skipped 3 of 24 images" in said and "03.jpg" in said and "empty" in said


def test_a_run_over_unreadable_images_is_resumed_over_the_same(spoiled: Path, start: Start, tmp_path: Path) -> None:
    start(tmp_path / "run", data=spoiled, steps=2, stop=1)
    assert start(tmp_path / "run", data=spoiled, steps=None, resume=True).step == 2
    (spoiled / "20.jpg").write_text("broken meanwhile")
    with pytest.raises(BadRun, match="the images are not those"):
        start(tmp_path / "run", data=spoiled, steps=2, resume=True)


@pytest.mark.parametrize(("good", "said"), [(0, "no image in this folder"), (1, "at least 2 readable images; 1 of 1 are")])
def test_a_folder_with_one_image_or_none_is_refused_and_no_run_is_made(
    start: Start, photos: Path, tmp_path: Path, good: int, said: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(good):
        shutil.copy(photos / f"{number:02d}.jpg", data)
    with pytest.raises(BadData, match=said):
        start(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_refused_before_images_are_read(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "a" / "b"):
        with pytest.raises(CannotWrite, match="is a file") as refusal:
            start(out, data=tmp_path / "nowhere")
        assert refusal.value.path == str(out)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"arch": "resnet10x"}, UnknownName, "did you mean"),
        ({"arch": "mobilenetv3_small_050"}, BadRun, "has no single last stage"),
        ({"steps": 0}, BadRun, "steps"),
        ({"steps": -3}, BadRun, "steps"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_no_run_is_made(
    start: Start, tmp_path: Path, changes: dict[str, object], error: type[InslocError], said: str
) -> None:
    with pytest.raises(error, match=said):
        start(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(start: Start, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(run, learning_rate=1e30, stop=1)
    before = (run / "checkpoint.pt").read_bytes()
    with pytest.raises(NotFinite, match=r"at step \d.*Lower the learning rate \(now 1e\+30\)"):
        start(run, resume=True, steps=None)
    assert (run / "checkpoint.pt").read_bytes() == before
    assert read_checkpoint(run)["step"] == 1
    assert "NaN" not in (run / "metrics.jsonl").read_text()


def test_images_beyond_the_cache_are_read_again_to_the_same_numbers(
    undisturbed: Path, world: Path, tiny: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from insloc_hub.pretrain.options import RunOptions
    from insloc_hub.pretrain.run import pretrain

    pretrain(tiny(), RunOptions(data=world / "train", run=tmp_path / "run", steps=6, cache_gib=0.0003), lambda step: step >= 2)
    assert "fit in the cache" in capsys.readouterr().err

    def losses(run: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    assert losses(tmp_path / "run") == losses(undisturbed)[:2]
