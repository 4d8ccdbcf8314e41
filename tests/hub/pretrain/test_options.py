"""Command-line choices -> recipe: what follows from what, and what is refused."""

from pathlib import Path

import pytest

from insloc_hub.errors import BadRun, UnknownName
from insloc_hub.pretrain.options import RunOptions, check_resume, resolve_recipe
from insloc_hub.recipes import insloc_c4_small

NOTHING = {"batch": None, "canvas": None}


def test_no_choice_is_the_recipe_itself() -> None:
    assert resolve_recipe("insloc_c4_small", **NOTHING, changes={"arch": None, "seed": None}) == insloc_c4_small()


def test_choices_are_taken_and_the_rest_follows_from_canvas_and_batch() -> None:
    recipe = resolve_recipe(
        "insloc_c4_small", batch=16, canvas=64, changes={"arch": "resnet50", "learning_rate": 0.5, "queue": None, "seed": 3}
    )
    assert (recipe.arch, recipe.seed, recipe.learning_rate) == ("resnet50", 3, 0.5)
    assert (recipe.canvas, recipe.foreground_bounds, recipe.roi_size) == (64, (32, 62), 4)
    assert (recipe.batch, recipe.bn_groups, recipe.queue) == (16, 2, 4096)


@pytest.mark.parametrize(
    ("batch", "canvas", "said"),
    [(0, None, "batch 0"), (-1, None, "batch -1"), (6, None, "batch 6"), (None, 65, "canvas 65"), (None, 0, "canvas 0")],
)
def test_a_batch_or_canvas_that_cannot_be_is_refused(batch: int | None, canvas: int | None, said: str) -> None:
    with pytest.raises(BadRun, match=said):
        resolve_recipe("insloc_c4_small", batch=batch, canvas=canvas, changes={})


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UnknownName):
        resolve_recipe("insloc_c4_big", **NOTHING, changes={})


def test_a_resumed_run_takes_no_recipe_flags_and_says_which_by_their_names() -> None:
    check_resume({"arch": None, "seed": None})
    with pytest.raises(BadRun, match="leave out --arch --bn-groups --lr"):
        check_resume({"arch": "resnet18", "learning_rate": 0.1, "bn_groups": 2, "seed": None})


@pytest.mark.parametrize("changes", [{"steps": 0}, {"steps": -1}, {"cache_gib": -1.0}, {"cache_gib": float("nan")}])
def test_options_that_cannot_be_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(BadRun, match="must be"):
        RunOptions(data=Path("a"), run=Path("b"), **changes)
