"""Cards: exported folders with a name of ours, found in INSLOC_HOME."""

import shutil
from pathlib import Path

import pytest
import torch

import insloc_hub
from insloc_hub.errors import UnknownName
from insloc_hub.models.create import create_model
from insloc_hub.models.zoo import card_folder, list_models, zoo_folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path) -> Path:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    shutil.copytree(finished_run / "model", tmp_path / "zoo" / "insloc_resnet18.mine")
    shutil.copytree(finished_run / "model", tmp_path / "zoo" / "insloc_resnet18.other")
    (tmp_path / "zoo" / "insloc_resnet18.unfinished").mkdir()
    (tmp_path / "zoo" / "notes").mkdir()
    return tmp_path


def test_cards_of_the_home_are_listed_and_half_made_ones_are_not(home: Path) -> None:
    mine = [name for name in list_models() if (home / "zoo" / name).exists()]
    assert mine == ["insloc_resnet18.mine", "insloc_resnet18.other"]
    assert insloc_hub.list_models() == list_models()
    assert zoo_folders()[-1] == home / "zoo"


def test_a_card_is_a_model_spec(home: Path, finished_run: Path) -> None:
    assert card_folder("insloc_resnet18.mine") == home / "zoo" / "insloc_resnet18.mine"
    card, run = create_model("insloc_resnet18.mine"), create_model(str(finished_run))
    assert torch.equal(card.conv1.weight, run.conv1.weight)


def test_an_unknown_card_is_refused_with_the_nearest_and_where_to_put_one(home: Path) -> None:
    for name in ("insloc_resnet18.mime", "insloc_resnet18.unfinished"):
        with pytest.raises(UnknownName) as refusal:
            card_folder(name)
        assert str(home / "zoo") in str(refusal.value)
    with pytest.raises(UnknownName, match=r"did you mean 'insloc_resnet18\.mine'"):
        create_model("insloc_resnet18.mime")


def test_an_empty_home_has_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path / "not made yet"))
    assert not (tmp_path / "not made yet").exists()
    assert set(list_models()) == {p.name for p in zoo_folders()[0].glob("insloc_*")}
