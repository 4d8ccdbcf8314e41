"""What is proposed for which images, and that the proposed command is one that runs."""

import shlex
import shutil
from pathlib import Path

import pytest
import tyro

from insloc_hub.data.folder import list_images
from insloc_hub.errors import BadData
from insloc_hub.pretrain.flags import PretrainFlags
from insloc_hub.pretrain.plan import Survey, cache_advice, plan, propose, survey, warnings
from insloc_hub.recipe import fit_to_data

GIB = 2**30


def seen(images: int, short_px: float = 300, unreadable: int = 0) -> Survey:
    return Survey(images=images, looked_at=64, unreadable=unreadable, short_px=short_px, decode_ms=3.0)


@pytest.mark.parametrize(
    ("images", "short_px", "accelerator", "expected"),
    [
        (20, 300, False, ("insloc_c4_small", "resnet18", 128, 8, 8, 400)),
        (5_000, 64, False, ("insloc_c4_small", "resnet18", 128, 32, 1248, 400)),
        (50_000, 500, False, ("insloc_c4_small", "resnet18", 128, 32, 4096, 400)),
        (5_000, 64, True, ("insloc_c4_small", "resnet18", 128, 256, 1024, 400)),
        (1_281_167, 400, True, ("insloc_c4_r50_200ep", "resnet50", 256, 256, 65536, 200)),
        (1_281_167, 400, False, ("insloc_c4_small", "resnet18", 128, 32, 4096, 200)),
    ],
)
def test_the_proposal_follows_from_count_size_and_device(
    images: int, short_px: float, accelerator: bool, expected: tuple[object, ...]
) -> None:
    recipe, advice = propose(seen(images, short_px), accelerator)
    assert (recipe.name, recipe.arch, recipe.canvas, recipe.batch, recipe.queue, recipe.epochs) == expected
    assert recipe.queue * 4 <= images or recipe.queue == recipe.batch
    assert fit_to_data(recipe, images)[1] == ()  # nothing that pretrain would change
    assert all(a.reason for a in advice)


def test_images_that_do_not_fit_in_memory_are_said_to_stream() -> None:
    assert cache_advice(seen(1_000), 128, 16 * GIB).reason.startswith("all decoded images fit")
    tight = cache_advice(seen(1_000_000), 256, 16 * GIB)
    assert tight.value == "8.0" and "backgrounds come from the images seen last" in tight.reason


def test_scenes_few_images_and_unreadable_ones_are_warned_of_with_the_way_out() -> None:
    assert warnings(seen(5_000)) == []
    (scene,) = warnings(seen(5_000, 480))
    assert "judged by size alone" in scene and "cut the objects out" in scene
    few, bad = warnings(seen(30)), warnings(seen(5_000, unreadable=3))
    assert "--init" in few[0] and "3 of 64" in bad[0]


def test_the_survey_decodes_evenly_and_counts_what_it_cannot_read(photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "00.jpg").write_text("no image")
    found = survey(list_images(folder))
    assert (found.images, found.looked_at, found.unreadable) == (24, 24, 1) and found.decode_ms > 0
    empty = tmp_path / "bad"
    empty.mkdir()
    for number in range(3):
        (empty / f"{number}.jpg").write_text("no image")
    with pytest.raises(BadData, match="3 can't be read"):
        survey(list_images(empty))


def test_the_plan_ends_with_a_command_that_pretrain_takes(photos: Path) -> None:
    text = plan(photos, "cpu", Path("runs/first"))
    assert "Price: " in text and "24 images" in text and "Warning: 24 images are few" in text
    words = shlex.split(text.splitlines()[-1])
    assert words[:2] == ["insloc", "pretrain"]
    flags = tyro.cli(PretrainFlags, args=words[2:])
    recipe = flags.settled()
    assert recipe is not None and (recipe.batch, recipe.queue, recipe.epochs) == (8, 8, 400)
    assert flags.data == photos and flags.options("").run == Path("runs/first")
