"""Seed and recipe of a model's pretraining, read from where the model lies."""

import json
import shutil
from pathlib import Path

import pytest

from insloc_eval.origin import Origin, origin
from insloc_hub.errors import BadSpec


def test_an_exported_folder_says_its_seed_and_its_recipe_without_the_seed(exported_run: Path, tmp_path: Path) -> None:
    first = origin(str(exported_run))
    config = json.loads((exported_run / "model" / "config.json").read_text())
    assert first.seed == config["insloc"]["recipe"]["seed"] == 0
    config["insloc"]["recipe"]["seed"] = 7
    shutil.copytree(exported_run / "model", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    other = origin(f"local-dir:{tmp_path / 'other'}")
    assert other == Origin(seed=7, recipe=first.recipe)
    config["insloc"]["recipe"]["batch"] += 1
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert origin(str(tmp_path / "other")).recipe != first.recipe


def test_random_networks_are_seeds_of_one_arm_and_strangers_say_nothing(exported_run: Path, tmp_path: Path) -> None:
    one, two, other = (origin(name) for name in ("random:resnet18@1", "random:resnet18@2", "random:resnet34@1"))
    assert (one.seed, two.seed) == (1, 2) and one.recipe == two.recipe != other.recipe
    assert origin("resnet18.a1_in1k") == Origin()
    with pytest.raises(BadSpec, match="can't be had"):
        origin("hf-hub:org/name")
    shutil.copytree(exported_run / "model", tmp_path / "foreign")
    config = json.loads((tmp_path / "foreign" / "config.json").read_text())
    del config["insloc"]
    for ours in ({}, {"insloc": {}}):
        (tmp_path / "foreign" / "config.json").write_text(json.dumps({**config, **ours}))
        assert origin(str(tmp_path / "foreign")) == Origin()


@pytest.mark.parametrize("seed", ["3", None, True])
def test_a_seed_that_is_no_number_is_not_known(exported_run: Path, tmp_path: Path, seed: object) -> None:
    shutil.copytree(exported_run / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["insloc"]["recipe"]["seed"] = seed
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert origin(str(tmp_path / "model")).seed is None
