"""What is proposed for which images, and that the proposed command is one that runs."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import tyro

from insloc_hub.data.folder import list_images
from insloc_hub.data.loader import batch_indices
from insloc_hub.errors import BadData, BadRun
from insloc_hub.pretrain import survey as looking
from insloc_hub.pretrain.flags import PretrainFlags
from insloc_hub.pretrain.plan import Plan, as_text, first_recipe, make_plan, plan, scene_warnings
from insloc_hub.pretrain.run import pretrain
from insloc_hub.pretrain.survey import Survey, Trial, boxes_per_image, look_at, try_steps
from insloc_hub.recipe import fit_to_data
from insloc_hub.recipes import insloc_c4_small

GIB = 2**30


def seen(images: int, short: int = 300, **changes: object) -> Survey:
    found = Survey(
        images=images, looked_at=64, unreadable=0, sides=((short, short),), decode_s=0.003, free_bytes=16 * GIB, boxes=None
    )
    return dataclasses.replace(found, **changes)


def proposed(survey: Survey, device: str = "cpu", hours: float = 10_000, step_s: float = 0.1, make_s: float = 0.05) -> Plan:
    recipe = first_recipe(survey, device, None)
    trial = Trial(device=device, batch=recipe.batch, halved=False, step_s=step_s, make_s=make_s)
    return make_plan(survey, recipe, trial, hours=hours, data=Path("photos"), out=Path("runs/first"))


@pytest.mark.parametrize(
    ("images", "short", "device", "expected"),
    [
        (20, 300, "cpu", ("insloc_c4_small", "resnet18", 128, 8, 8, 800)),
        (2_000, 300, "cpu", ("insloc_c4_small", "resnet18", 128, 32, 480, 200)),
        (5_000, 64, "cpu", ("insloc_c4_small", "resnet18", 128, 32, 1248, 200)),
        (50_000, 500, "cpu", ("insloc_c4_small", "resnet18", 128, 32, 4096, 200)),
        (5_000, 64, "cuda", ("insloc_c4_small", "resnet18", 128, 256, 1024, 250)),
        (5_000, 400, "cuda", ("insloc_c4_small", "resnet18", 256, 256, 1024, 250)),
        (1_281_167, 400, "cuda", ("insloc_c4_r50_200ep", "resnet50", 256, 256, 65536, 200)),
        (1_281_167, 400, "cpu", ("insloc_c4_small", "resnet18", 128, 32, 4096, 200)),
    ],
)
def test_the_proposal_follows_from_count_size_and_device(
    images: int, short: int, device: str, expected: tuple[object, ...]
) -> None:
    recipe = proposed(seen(images, short), device).recipe
    assert (recipe.name, recipe.arch, recipe.canvas, recipe.batch, recipe.queue, recipe.epochs) == expected
    assert recipe.queue * 4 <= images or recipe.queue == recipe.batch
    assert recipe.learning_rate == pytest.approx(0.03 * recipe.batch / 256)
    assert fit_to_data(recipe, images)[1] == ()  # nothing that pretrain would change


def test_the_price_is_that_of_the_slower_of_step_and_batch() -> None:
    """5,000 images in batches of 32 are 157 steps, 200 times."""
    assert proposed(seen(5_000), step_s=0.1, make_s=0.05).hours == pytest.approx(157 * 200 * 0.1 / 3600)
    slow = proposed(seen(5_000), step_s=0.1, make_s=0.4)
    assert slow.hours == pytest.approx(157 * 200 * 0.4 / 3600)
    (workers,) = [choice for choice in slow.choices if choice.name == "workers"]
    assert workers.price == "75% of the time is waiting for data"


def test_a_run_is_shortened_to_the_hours_that_there_are() -> None:
    plan = proposed(seen(50_000), hours=5)
    assert 0.95 * 5 < plan.hours <= 5 and plan.recipe.epochs == int(5 / (1563 * 0.1 / 3600)) == 115
    (epochs,) = [choice for choice in plan.choices if choice.name == "epochs"]
    assert epochs.reason == "as many as fit into 5 h; 200 would be better"
    assert "longer than" not in str(plan.warnings)
    assert any("longer than the 0.01 h wanted" in warning for warning in proposed(seen(50_000), hours=0.01).warnings)


def test_the_stated_share_of_queries_that_meet_their_own_key_is_what_the_order_gives() -> None:
    """480 of 2,000 images: .24 squared over two, against the loop's own shuffles."""
    (queue,) = [choice for choice in proposed(seen(2_000)).choices if choice.name == "queue"]
    assert "24.0% of the set" in queue.reason and "2.9% of the queries" in queue.reason
    recent: list[int] = []
    met = total = 0
    for step in range(63, 63 * 9):
        _, indices = batch_indices(2_000, 32, 0, step)
        if len(recent) >= 480:
            met += sum(index in recent[-480:] for index in indices)
            total += len(indices)
        recent += indices
    assert met / total == pytest.approx(0.029, abs=0.012)  # the last batch of an epoch is filled up from its beginning


def test_images_that_do_not_fit_in_memory_are_said_to_stream() -> None:
    def cache(survey: Survey) -> tuple[str, str]:
        (found,) = [choice for choice in proposed(survey).choices if choice.name == "cache"]
        return found.value, found.reason

    value, reason = cache(seen(1_000))  # 1,000 x (256 x 256 + 128 x 128) x 3 bytes and a tenth
    assert value == "0.3 GiB" and reason.startswith("holds all images")
    value, reason = cache(seen(1_000_000))
    assert value == "8 GiB" and "Backgrounds then come from the images seen last" in reason


def test_scenes_are_warned_of_by_boxes_or_by_size_and_the_sign_is_said() -> None:
    assert scene_warnings(seen(5_000)) == [] and scene_warnings(seen(5_000, 480, boxes=1.1)) == []
    (sure,) = scene_warnings(seen(5_000, 64, boxes=7.0))
    assert "these are scenes of several objects (judged by 7.0 boxes an image)" in sure and "cut the objects out" in sure
    (unsure,) = scene_warnings(seen(5_000, 480))
    assert "judged by size alone, which can't tell" in unsure and "cut the objects out" in unsure


def test_few_images_and_unreadable_ones_are_warned_of_with_the_way_out() -> None:
    assert proposed(seen(5_000)).warnings == ()
    few, bad = proposed(seen(30)).warnings, proposed(seen(5_000, unreadable=3)).warnings
    assert "--init" in few[0] and "3 of 64" in bad[0]


def test_the_survey_decodes_evenly_and_counts_what_it_cannot_read(photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "00.jpg").write_text("no image")
    found = look_at(list_images(folder), folder)
    assert (found.images, found.looked_at, found.unreadable) == (24, 24, 1)
    assert 60 <= found.short_side <= 107 and found.decode_s > 0 and found.free_bytes > 0 and found.boxes is None
    assert found.bytes_each(128) == sum(3 * short * long for short, long in found.sides) / 23
    empty = tmp_path / "bad"
    empty.mkdir()
    for number in range(3):
        (empty / f"{number}.jpg").write_text("no image")
    with pytest.raises(BadData, match="of 3 images looked at 3 can't be read, "):
        look_at(list_images(empty), empty)


def test_boxes_are_counted_where_there_are_annotations(world: Path, tmp_path: Path) -> None:
    rows = [json.loads(path.read_text()) for path in (world / "annotations").glob("instances_*.json")]
    expected = sum(len(row["annotations"]) for row in rows) / sum(len(row["images"]) for row in rows)
    assert boxes_per_image(world) == pytest.approx(expected) and boxes_per_image(tmp_path) is None
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": [[0, 0, 2, 2], [1, 1, 4, 4]], "b.jpg": [0, 0, 9, 9]}))
    assert boxes_per_image(tmp_path) == 1.5


def test_a_batch_that_does_not_fit_is_halved_until_it_does(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(pixels: object, recipe: object, device: object) -> tuple[float, float]:
        asked.append(recipe.batch)  # type: ignore[attr-defined]
        if asked[-1] > most:
            raise torch.OutOfMemoryError
        return 0.2, 0.1

    monkeypatch.setattr(looking, "_time", full)
    images, recipe, cpu = list_images(photos), insloc_c4_small(), torch.device("cpu")
    most = 8
    assert try_steps(images, recipe, cpu) == Trial(device="cpu", batch=8, halved=True, step_s=0.2, make_s=0.1)
    assert asked == [32, 16, 8]
    most = 0
    with pytest.raises(BadRun, match="resnet18 at 128 px does not fit into the memory of cpu, even in batches of 8"):
        try_steps(images, recipe, cpu)


def test_the_plan_ends_with_a_command_that_trains_without_a_change(photos: Path, tmp_path: Path) -> None:
    text = plan(photos, "cpu", tmp_path / "run", 24.0, "resnet10t")
    assert "Price: about " in text and "24 images" in text and "Warning: 24 images are few" in text
    for name in ("recipe", "canvas", "queue", "batch, lr", "epochs", "workers", "cache"):
        assert f"\n{name} " in text
    words = shlex.split(text.splitlines()[-1])
    assert words[:2] == ["insloc", "pretrain"] and "--strict" in words
    flags = tyro.cli(PretrainFlags, args=words[2:])
    recipe = flags.settled()
    assert recipe is not None and (recipe.arch, recipe.batch, recipe.queue, recipe.epochs) == ("resnet10t", 8, 8, 800)
    finish = pretrain(recipe, flags.options(""), lambda step: step >= 1)
    assert finish.step == 1 and finish.total == 3 * 800


def test_the_text_names_what_was_looked_at() -> None:
    survey = seen(5_000, boxes=1.0)
    first = as_text(proposed(survey), survey).splitlines()[0]
    assert first.startswith("5,000 images; of 64 looked at, the median short side is 300 px, the median decode takes 3.0 ms;")
    assert first.endswith("1.0 boxes an annotated image")
