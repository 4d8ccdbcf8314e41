"""The list of names: what ships with it, a person's own, folders that lie here."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from timm.models import is_model

import insloc_hub
from insloc_hub import recipes
from insloc_hub.encoders.backbone import new_timm_model
from insloc_hub.errors import BadData
from insloc_hub.models.create import create_model
from insloc_hub.models.zoo import (
    SHIPPED,
    Entry,
    Score,
    add_entry,
    entries,
    how_to_get,
    hub_name,
    list_models,
    local_folder,
    own_list,
    read_entries,
    split_name,
    zoo_folders,
)

SCORE = Score(protocol="linear/sweep@1", data="photos", metric="top1", value=0.5, low=0.4, high=0.6)
MINE = Entry(name="insloc_resnet18.mine", origin="published", sha256="ab" * 32, hub="lab/resnet18.insloc_mine", scores=(SCORE,))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path) -> Path:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    shutil.copytree(finished_run / "model", tmp_path / "zoo" / "insloc_resnet18.mine")
    shutil.copytree(finished_run / "model", tmp_path / "zoo" / "insloc_resnet18.other")
    (tmp_path / "zoo" / "insloc_resnet18.unfinished").mkdir()
    (tmp_path / "zoo" / "notes").mkdir()
    return tmp_path


def test_the_shipped_names_are_the_authors_four_and_claim_nothing_that_nobody_has_seen() -> None:
    shipped = read_entries(SHIPPED)
    assert set(shipped) == {f"insloc_resnet50.{v}_{e}ep_in1k" for v in ("c4", "fpn") for e in (200, 400)}
    for entry in shipped.values():
        assert entry.origin == "official" and entry.source.startswith("https://")
        assert (entry.sha256, entry.source_sha256, entry.hub, entry.scores) == (None, None, None, ())
        assert "never seen by us, sha256 unknown" in how_to_get(entry) and "not stated" in entry.licence
        assert f"insloc fetch {entry.name} --official FILE" in how_to_get(entry)


def test_what_the_shipped_list_says_of_recipe_and_size_is_so() -> None:
    parameters = sum(p.numel() for p in new_timm_model("resnet50", num_classes=0).parameters())
    for entry in read_entries(SHIPPED).values():
        recipe = recipes.RECIPES[entry.recipe]()
        variant, epochs = split_name(entry.name)[1].split("_")[:2]
        assert (recipe.variant, f"{recipe.epochs}ep", recipe.arch) == (variant, epochs, entry.arch)
        assert is_model(entry.arch) and entry.params == parameters
        of_the_paper = entry.reported.split("box AP ")[1].split(",")[0]
        assert of_the_paper in (recipes.RECIPES[entry.recipe].__doc__ or "")


def test_the_name_on_the_hub_has_the_stock_architecture_and_our_method_in_its_tag() -> None:
    assert hub_name("insloc_resnet50.fpn_400ep_in1k") == "resnet50.insloc_fpn_400ep_in1k"


def test_folders_of_the_home_are_listed_and_half_made_ones_are_not(home: Path) -> None:
    mine = [name for name in list_models() if (home / "zoo" / name).exists()]
    assert mine == ["insloc_resnet18.mine", "insloc_resnet18.other"]
    assert insloc_hub.list_models() == list_models()
    assert zoo_folders()[-1] == home / "zoo"
    assert local_folder("insloc_resnet18.unfinished") is None


def test_a_card_is_a_model_spec(home: Path, finished_run: Path) -> None:
    assert local_folder("insloc_resnet18.mine") == home / "zoo" / "insloc_resnet18.mine"
    card, run = create_model("insloc_resnet18.mine"), create_model(str(finished_run))
    assert torch.equal(card.conv1.weight, run.conv1.weight)


def test_an_empty_home_has_no_model_that_could_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path / "not made yet"))
    assert set(list_models()) == {p.name for p in zoo_folders()[0].glob("insloc_*")}
    assert not (tmp_path / "not made yet").exists() and len(entries()) == 4


def test_an_own_entry_is_kept_with_its_scores_and_replaced_by_a_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    other = Entry(name="insloc_resnet18.other", origin="published")
    for entry in (Entry(name=MINE.name, origin="published"), other, MINE):
        assert add_entry(entry) == own_list()
    assert read_entries(own_list()) == {MINE.name: MINE, other.name: other}
    assert MINE.name in list_models() and other.name not in list_models()
    assert how_to_get(other) == "not published" and "lab/resnet18.insloc_mine: insloc fetch insloc_res" in how_to_get(MINE)


def test_an_own_list_can_not_change_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    name = "insloc_resnet50.c4_200ep_in1k"
    add_entry(Entry(name=name, origin="published", sha256="00" * 32))
    assert entries()[name] == read_entries(SHIPPED)[name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no list of models"),
        ("[]", "is no list of models"),
        (
            '{"schema": 1, "entries": [{"name": "resnet18.mine", "origin": "published"}]}',
            "'resnet18.mine' is no insloc_ARCH.TAG",
        ),
        ('{"schema": 1, "entries": [{"name": "insloc_resnet18.a", "origin": "published", "colour": 1}]}', "colour"),
        ('{"schema": 99, "entries": []}', "has schema 99; this insloc_hub reads up to 1"),
    ],
)
def test_a_damaged_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    own_list().write_text(text)
    with pytest.raises(BadData, match=said) as refusal:
        entries()
    assert str(own_list()) in str(refusal.value)
    json.loads(SHIPPED.read_text())
