"""The grammar of model names: what each form means, and what is refused before torch is even imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from insloc_hub.errors import BadSpec
from insloc_hub.models.spec import export_folder, parse_spec

GOOD = [
    ("random:resnet18", "random", "resnet18", 0),
    ("random:convnext_atto@7", "random", "convnext_atto", 7),
    ("resnet50", "timm", "resnet50", 0),
    ("resnet50.a1_in1k", "timm", "resnet50.a1_in1k", 0),
    ("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", "timm", "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", 0),
    ("hf-hub:timm/resnet18.a1_in1k", "hf-hub", "timm/resnet18.a1_in1k", 0),
    ("hf_hub:timm/resnet18.a1_in1k", "hf-hub", "timm/resnet18.a1_in1k", 0),
    ("hf-hub:my-org/my_model@v1.0", "hf-hub", "my-org/my_model@v1.0", 0),
    ("hf-hub:org/name@refs/pr/3", "hf-hub", "org/name@refs/pr/3", 0),
    ("insloc_resnet50.c4_200ep_in1k", "card", "insloc_resnet50.c4_200ep_in1k", 0),
    ("x" * 5000, "timm", "x" * 5000, 0),  # whether there is one is timm's to say
]

BAD = [
    ("", "is none of"),
    ("local-dir:", "is none of"),
    (" ", "is none of"),
    ("resnet18 ", "is none of"),
    ("res net", "is none of"),
    ("résnet", "is none of"),
    ("resnet18@1", "is none of"),
    ("random:", "random:ARCH"),
    ("random:resnet18@", "random:ARCH"),
    ("random:resnet18@-1", "random:ARCH"),
    ("random:resnet18@x", "random:ARCH"),
    ("random:resnet18.a1_in1k", "random:ARCH"),
    ("hf-hub:resnet18", "hf-hub:ORG/NAME"),
    ("hf-hub:a/b/c", "hf-hub:ORG/NAME"),
    ("hf-hub:a/b@", "hf-hub:ORG/NAME"),
    ("local_dir:somewhere", "unknown prefix 'local_dir:'"),
    ("http://example.org/model", "unknown prefix 'http:'"),
    ("s3:bucket", "unknown prefix 's3:'"),
    ("local-dir:nowhere/at/all", "no such folder or file"),
    ("nowhere/at/all", "no such folder or file"),
    ("weights.safetensors", "no such folder or file"),
    ("a/" + "x" * 5000, "no such folder or file"),
    ("resnet18\x00", "is none of"),
]


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_export(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(("text", "kind", "name", "seed"), GOOD, ids=[row[0][:30] for row in GOOD])
def test_each_form_is_taken_apart(text: str, kind: str, name: str, seed: int) -> None:
    spec = parse_spec(text)
    assert (spec.text, spec.kind, spec.name, spec.seed) == (text, kind, name, seed)


@pytest.mark.parametrize(("text", "problem"), BAD, ids=[repr(text)[:30] for text, _ in BAD])
def test_what_fits_no_form_is_refused(text: str, problem: str) -> None:
    with pytest.raises(BadSpec, match=problem):
        parse_spec(text)


def test_a_folder_a_run_and_a_weights_file_mean_the_same_export(empty_place: Path) -> None:
    export = make_export(empty_place / "run" / "model")
    for text in (
        "run/model",
        "run",
        "run/model/model.safetensors",
        "./run",
        str(export),
        f"local-dir:{export}",
        "local-dir:run",
    ):
        spec = parse_spec(text)
        assert spec.kind == "folder" and Path(spec.name).resolve() == export


def test_a_folder_in_the_home_is_found(empty_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(empty_place))
    make_export(empty_place / "mine")
    assert Path(parse_spec("~/mine").name) == empty_place / "mine"


@pytest.mark.parametrize(
    ("files", "named", "problem"),
    [
        ([], "place", "no config.json in this folder nor in its model/"),
        (["run.json"], "place", "insloc export place"),
    ],
)
def test_a_folder_that_is_no_export_is_refused_with_the_way_out(
    empty_place: Path, files: list[str], named: str, problem: str
) -> None:
    (empty_place / "place").mkdir()
    for file in files:
        (empty_place / "place" / file).write_bytes(b"")
    with pytest.raises(BadSpec, match=problem):
        export_folder(Path(named))


@pytest.mark.parametrize("name", ["weights.pth", "other.safetensors", "model.safetensors", "insloc_c4.pkl"])
def test_a_weights_file_without_a_config_beside_it_speaks_for_itself(empty_place: Path, name: str) -> None:
    (empty_place / name).write_bytes(b"")
    spec = parse_spec(f"./{name}")
    assert (spec.kind, spec.name) == ("checkpoint", name)
    if name == "model.safetensors":
        (empty_place / "config.json").write_text("{}")
        assert parse_spec(name).kind == "folder"


def test_a_wrong_spec_is_refused_without_torch() -> None:
    script = (
        "import sys\nfrom insloc_hub.models.spec import parse_spec\ntry:\n    parse_spec('random:')\nexcept Exception as e:\n"
    )
    script += "    sys.exit(type(e).__name__ + str([n for n in ('torch', 'timm', 'numpy') if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "BadSpec[]"
