"""Recipes: the paper's numbers, what follows from canvas and batch, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from insloc_hub.errors import BadRun, UnknownName
from insloc_hub.recipe import Recipe, at_batch, at_canvas, fit_to_data, from_dict
from insloc_hub.recipes import RECIPES, find_recipe, insloc_c4_r50_200ep, insloc_c4_small


def test_the_papers_recipe_has_the_released_numbers() -> None:
    """paper.md A.1 to A.6, typed again here."""
    expected = {
        "name": "insloc_c4_r50_200ep",
        "arch": "resnet50",
        "variant": "c4",
        "canvas": 256,
        "foreground_bounds": (128, 254),
        "blur_sigma": (0.1, 2.0),
        "roi_size": 14,
        "init": "random",
        "objective": "contrast",
        "views": "paste",
        "pixel_mean": (0.485, 0.456, 0.406),
        "pixel_std": (0.229, 0.224, 0.225),
        "augment_levels": (True,),
        "level_weights": (1.0,),
        "decay_norms": True,
        "batch": 256,
        "bn_groups": 8,
        "queue": 65536,
        "key_momentum": 0.999,
        "temperature": 0.2,
        "embedding_dim": 128,
        "learning_rate": 0.03,
        "sgd_momentum": 0.9,
        "weight_decay": 1e-4,
        "epochs": 200,
        "precision": "fp32",
        "seed": 0,
    }
    assert insloc_c4_r50_200ep().as_dict() == expected


@pytest.mark.parametrize(
    ("canvas", "bounds", "roi", "sigma"), [(128, (64, 126), 8, (0.05, 1.0)), (64, (32, 62), 4, (0.025, 0.5))]
)
def test_another_canvas_keeps_the_geometry_in_proportion(
    canvas: int, bounds: tuple[int, int], roi: int, sigma: tuple[float, float]
) -> None:
    recipe = at_canvas(insloc_c4_r50_200ep(), canvas)
    assert (recipe.canvas, recipe.foreground_bounds, recipe.roi_size) == (canvas, bounds, roi)
    assert recipe.blur_sigma == pytest.approx(sigma)
    assert at_canvas(recipe, 256) == insloc_c4_r50_200ep()


def test_another_batch_scales_the_learning_rate_and_groups_and_trims_the_queue() -> None:
    recipe = at_batch(insloc_c4_r50_200ep(), 96)
    assert (recipe.batch, recipe.bn_groups, recipe.queue) == (96, 3, 65472)
    assert recipe.learning_rate == pytest.approx(0.03 * 96 / 256)
    assert at_batch(insloc_c4_r50_200ep(), 16).bn_groups == 2


def test_what_the_user_says_wins_over_what_follows() -> None:
    recipe = at_batch(insloc_c4_r50_200ep(), 64, learning_rate=0.5, queue=640, bn_groups=4)
    assert (recipe.learning_rate, recipe.queue, recipe.bn_groups) == (0.5, 640, 4)


@pytest.mark.parametrize(("images", "queue"), [(1000, 496), (128, 64), (127, 48), (40, 16), (10, 16), (10**7, 4096)])
def test_the_queue_holds_at_most_half_of_the_images(images: int, queue: int) -> None:
    small = at_batch(insloc_c4_small(), 16)
    fitted, reasons = fit_to_data(small, images)
    assert fitted.queue == queue
    assert [f"queue 4096 -> {queue}" in reason for reason in reasons] == ([] if queue == 4096 else [True])
    assert dataclasses.replace(fitted, queue=4096) == small


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variant": "c5"}, "variant 'c5' is unknown; there are c4, fpn, whole"),
        ({"objective": "pixels"}, "objective 'pixels' is unknown"),
        ({"views": "cut"}, "views 'cut' are unknown"),
        ({"variant": "fpn"}, "fpn has 4 levels, but augment_levels"),
        ({"level_weights": ()}, "c4 has 1 levels"),
        ({"variant": "whole"}, "variant 'whole' reads no box"),
        ({"views": "crops"}, "crops have no pasted box for variant 'c4'"),
        ({"canvas": 100}, "canvas 100"),
        ({"canvas": 32}, "canvas 32"),
        ({"foreground_bounds": (0, 60)}, "foreground bounds 0..60"),
        ({"foreground_bounds": (40, 30)}, "foreground bounds 40..30"),
        ({"foreground_bounds": (30, 64)}, "foreground bounds 30..64"),
        ({"batch": 0}, "batch 0"),
        ({"batch": -8}, "batch -8"),
        ({"batch": 6}, "batch 6 does not split into 2 groups"),
        ({"batch": 4}, "groups of at least 4 images"),
        ({"bn_groups": 0}, "bn_groups 0"),
        ({"bn_groups": 3}, "batch 8 does not split into 3 groups"),
        ({"epochs": 0}, "epochs 0"),
        ({"temperature": 0.0}, "temperature 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"precision": "fp16"}, "precision 'fp16'"),
        ({"learning_rate": -0.1}, "learning rate -0.1"),
        ({"learning_rate": float("nan")}, "learning rate nan"),
        ({"learning_rate": float("inf")}, "learning rate inf"),
        ({"queue": 30}, "queue 30 must be a multiple of the batch 8; the nearest is 24"),
        ({"queue": 0}, "queue 0"),
        ({"queue": -8}, "queue -8"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**32}, "seed 4294967296"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(tiny: Callable[..., Recipe], changes: dict[str, object], said: str) -> None:
    with pytest.raises(BadRun, match=said):
        tiny(**changes)


def test_one_group_accepts_the_leak_knowingly(tiny: Callable[..., Recipe]) -> None:
    assert tiny(bn_groups=1).bn_groups == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json_and_its_hash_knows_every_field(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    again = from_dict(json.loads(json.dumps(recipe.as_dict())))
    assert again == recipe and again.hash() == recipe.hash()
    assert dataclasses.replace(recipe, seed=5).hash() != recipe.hash()


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="insloc_c4_smal") as refusal:
        find_recipe("insloc_c4_smal")
    assert refusal.value.near[0] == "insloc_c4_small"


def test_a_wrong_recipe_is_refused_without_torch() -> None:
    script = "import sys\nfrom insloc_hub.recipes import find_recipe\ntry:\n    find_recipe('x')\nexcept Exception as e:\n"
    script += "    sys.exit(type(e).__name__ + str([n for n in ('torch', 'timm', 'numpy') if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "UnknownName[]"
