"""Files in the form that the authors' four are inferred to have: adopted as cards, or refused for what they are not."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import fill

from insloc_hub.checkpoints.families import detectron2
from insloc_hub.checkpoints.names import Layout, all_shapes, part_of
from insloc_hub.errors import BadCheckpoint, UnknownName
from insloc_hub.files import sha256_file
from insloc_hub.models import official
from insloc_hub.models.create import create_model
from insloc_hub.models.official import adopt, check_is, name_of
from insloc_hub.models.zoo import SHIPPED, Entry, read_entries

FOUR = read_entries(SHIPPED)
C4, FPN = "insloc_resnet50.c4_400ep_in1k", "insloc_resnet50.fpn_200ep_in1k"
Make = Callable[[str], Path]


def write_pickle(path: Path, layout: Layout, parts: tuple[str, ...], arch: str = "resnet50", author: str = "Ceyuan") -> Path:
    """What the authors' converter writes (compat.md 5.1), with made-up values."""
    tensors = {name: fill(name, shape) for name, shape in all_shapes(arch).items() if part_of(name) in parts}
    spelled = {layout.spell(name): np.asarray(value) for name, value in tensors.items()}
    content = {"model": {k: v for k, v in spelled.items() if k}, "__author__": author, "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=3).replace(b"cnumpy._core.", b"cnumpy.core."))
    return path


@pytest.fixture(scope="module")
def c4_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pickle(tmp_path_factory.mktemp("c4") / "insloc_c4_400ep.pkl", detectron2.C4, ("trunk",))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_file_named_as_the_authors_do_becomes_a_card_with_a_report(c4_file: Path, home: Path) -> None:
    done = adopt(c4_file)
    assert (done.name, done.folder) == (C4, home / "zoo" / C4)
    assert [p.name for p in (home / "zoo").iterdir()] == [C4]  # no scratch is left
    weight = create_model(C4).conv1.weight
    assert torch.equal(weight, torch.from_numpy(fill("conv1.weight", (64, 3, 7, 7))))
    facts = json.loads((done.folder / "config.json").read_text())
    assert facts["insloc"]["official"]["source_sha256"] == sha256_file(c4_file)
    assert facts["insloc"]["terms"].startswith("not stated by its authors")
    report = json.loads("\n".join(done.sentences()[done.sentences().index(next(s for s in done.sentences() if s[0] == "{")) :]))
    assert report == done.report
    assert (report["source_sha256"], report["sha256"]) == (sha256_file(c4_file), sha256_file(done.folder / "model.safetensors"))
    assert (report["author"], report["tensors"], report["unexpected"]) == ("Ceyuan", 318, [])
    assert {"c2", "c5"} <= {stage["stage"] for stage in report["proof"]} and all(stage["agrees"] for stage in report["proof"])
    assert str(c4_file.parent) not in json.dumps(report)


def test_the_same_file_again_is_the_same_card_and_another_of_that_name_is_refused(c4_file: Path, home: Path) -> None:
    first = adopt(c4_file, C4).folder
    assert adopt(c4_file).folder == first
    weights = first / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BadCheckpoint, match="holds other weights of this name"):
        adopt(c4_file)
    assert [p.name for p in (home / "zoo").iterdir()] == [C4]


@pytest.mark.slow
def test_the_fpn_file_brings_its_neck_and_head(tmp_path: Path, home: Path) -> None:
    file = write_pickle(tmp_path / "insloc_fpn_200ep.pkl", detectron2.FPN, ("trunk", "fpn", "head"))
    done = adopt(file)
    assert done.name == FPN and done.report["parts"]["fpn_head"]["file"] == "parts/fpn_head.safetensors"
    with pytest.raises(BadCheckpoint, match="a pyramid and a box head, so it is a fpn file and not insloc_resnet50"):
        adopt(file, C4)


def test_what_is_not_as_inferred_is_said_in_the_report(tmp_path: Path) -> None:
    file = write_pickle(tmp_path / "insloc_c4_200ep.pkl", detectron2.BARE, ("trunk",), author="Somebody")
    done = adopt(file)
    assert "its author is 'Somebody', inferred 'Ceyuan'" in done.report["unexpected"]
    assert any(line.startswith("not as we infer it: its author") for line in done.sentences())


def test_the_epochs_must_be_told_where_neither_content_nor_name_says_them(c4_file: Path) -> None:
    assert name_of(Path("x/insloc_c4_200ep.pkl"), "c4", FOUR) == "insloc_resnet50.c4_200ep_in1k"
    assert name_of(Path("InsLoc-FPN-400.pkl"), "fpn", FOUR) == "insloc_resnet50.fpn_400ep_in1k"
    for name in ("finetune.pkl", "c4_1400.pkl", "200_or_400.pkl"):
        with pytest.raises(BadCheckpoint, match=r"insloc fetch NAME --official FILE, where NAME is insloc_resnet50\.c4_200ep"):
            name_of(Path(name), "c4", FOUR)


def test_a_digest_that_others_reported_decides(c4_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {**FOUR, C4: Entry(name=C4, origin="official", source_sha256=sha256_file(c4_file))}
    monkeypatch.setattr(official, "entries", lambda: known)
    nameless = tmp_path / "downloaded"
    nameless.write_bytes(c4_file.read_bytes())
    done = adopt(nameless)
    assert done.name == C4 and done.report["known_before"]
    with pytest.raises(BadCheckpoint, match=r"the file of insloc_resnet50\.c4_400ep_in1k that others got has"):
        check_is(c4_file, "0" * 64, known[C4], "c4")


def test_other_peoples_files_are_refused_and_nothing_is_left(tmp_path: Path, home: Path) -> None:
    other = write_pickle(tmp_path / "insloc_c4_200ep.pkl", detectron2.C4, ("trunk",), arch="resnet18")
    for file, said in ((other, "holds a resnet18"), (tmp_path / "none.pkl", "no such file")):
        with pytest.raises(BadCheckpoint, match=said):
            adopt(file)
    with pytest.raises(UnknownName, match="did you mean"):
        adopt(other, "insloc_resnet50.c4_300ep_in1k")
    assert not home.exists() or list((home / "zoo").iterdir()) == []
