"""`insloc models`: what is here, what is elsewhere, what nobody has."""

import shutil
from pathlib import Path

import pytest

from insloc_hub.encoders.backbone import new_timm_model
from insloc_hub.errors import BadSpec
from insloc_hub.models.listing import card_scores, table, weights_size
from insloc_hub.models.zoo import Entry, Score, add_entry

SCORE = Score(protocol="linear/sweep@1", data="photos", metric="top1", value=0.5, low=0.4125, high=0.6)
CARD = """---
model-index:
- name: mine
  results:
  - task: {type: image-classification}
    dataset: {type: photos, name: photos, config: linear/sweep@1}
    metrics:
    - {type: top1, value: 0.5, args: {low: 0.4125, high: 0.6}}
    - {type: without, value: 0.7}
---
# mine
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path) -> Path:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    shutil.copytree(finished_run / "model", tmp_path / "zoo" / "insloc_resnet18.mine")
    return tmp_path / "zoo"


def lines_of(name: str) -> list[str]:
    """The line of a name, and the remarks below it."""
    lines = table().splitlines()
    arch, _, tag = name.partition(".")
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == [arch, tag])
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith("    ")), len(lines))
    return lines[start:end]


def test_a_folder_shows_its_size_recipe_place_and_the_scores_of_its_card(zoo: Path) -> None:
    first, remark = lines_of("insloc_resnet18.mine")
    parameters = sum(p.numel() for p in new_timm_model("resnet18", num_classes=0).parameters())
    assert f"{parameters / 1e6:.1f} M" in first and "44.8 MB" in first and "insloc_c4_small" in first
    assert first.endswith(str(zoo / "insloc_resnet18.mine")) and "no scores of ours" in remark
    (zoo / "insloc_resnet18.mine" / "README.md").write_text(CARD)
    assert card_scores(zoo / "insloc_resnet18.mine") == (SCORE,)
    assert lines_of("insloc_resnet18.mine")[1] == "    linear/sweep@1 on photos: top1 0.500 [0.412, 0.600]"


def test_parameters_are_those_of_the_network_and_statistics_are_none(zoo: Path) -> None:
    weights = zoo / "insloc_resnet18.mine" / "model.safetensors"
    parameters = sum(p.numel() for p in new_timm_model("resnet18", num_classes=0).parameters())
    assert weights_size(weights) == (parameters, weights.stat().st_size)
    for spoiled in (b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]"):
        weights.write_bytes(spoiled)
        with pytest.raises(BadSpec, match="not a whole safetensors file"):
            weights_size(weights)


def test_the_authors_files_are_listed_as_absent_unseen_and_with_the_command(zoo: Path) -> None:
    first, reported, how = lines_of("insloc_resnet50.fpn_400ep_in1k")
    assert "23.5 M" in first and "not stated by its authors" in first and first.endswith("not here")
    assert "no scores of ours; reported by the authors" in reported and "42.0" in reported
    assert "never seen by us, sha256 unknown" in how and "--official FILE" in how


def test_a_published_one_shows_its_scores_and_where_it_is(zoo: Path) -> None:
    entry = Entry(
        name="insloc_resnet18.far", origin="published", hub="lab/far", params=11_000_000, bytes=44_000_000, scores=(SCORE,)
    )
    add_entry(entry)
    first, score, how = lines_of("insloc_resnet18.far")
    assert first.endswith("Hub: lab/far") and "11.0 M" in first and "44.0 MB" in first
    assert "top1 0.500 [0.412, 0.600]" in score and how.strip() == "on the Hub as lab/far: insloc fetch insloc_resnet18.far"


@pytest.mark.parametrize(
    ("name", "data"), [("config.json", b"{"), ("model.safetensors", b"short"), ("config.json", b'{"architecture": 3}')]
)
def test_a_damaged_folder_is_named_and_hides_no_other(zoo: Path, name: str, data: bytes) -> None:
    shutil.copytree(zoo / "insloc_resnet18.mine", zoo / "insloc_resnet18.worse")
    (zoo / "insloc_resnet18.worse" / name).write_bytes(data)
    assert lines_of("insloc_resnet18.worse")[1].startswith(f"    damaged: {zoo / 'insloc_resnet18.worse' / name}")
    assert len(lines_of("insloc_resnet18.mine")) == 2


@pytest.mark.parametrize("text", ["no front matter", "---\n: : :\n---\n", "---\nmodel-index: 3\n---\n", "---\n- a\n---\n"])
def test_a_card_that_a_person_broke_has_no_scores(zoo: Path, text: str) -> None:
    (zoo / "insloc_resnet18.mine" / "README.md").write_text(text)
    assert card_scores(zoo / "insloc_resnet18.mine") == ()
