"""An exported folder in the hands of plain timm, in a process that cannot import us."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import PretrainedCfg

from insloc_hub.errors import BadRun
from insloc_hub.files import sha256_file
from insloc_hub.pretrain.resume import read_checkpoint
from insloc_hub.release.export import check_export, export_run

Start = Callable[..., Any]

WITHOUT_US = """
import json, sys
for name in ("insloc_hub", "insloc_eval", "insloc_server"):
    sys.modules[name] = None  # an import of it is now an ImportError
import timm, torch
from safetensors.torch import load_file
folder = sys.argv[1]
"""


def outside(script: str, folder: Path, cwd: Path) -> Any:
    """Run a script in another process without insloc_hub; what it prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_US + script, str(folder)], capture_output=True, text=True, cwd=cwd, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def config(finished_run: Path) -> dict[str, Any]:
    return json.loads((finished_run / "model" / "config.json").read_text())


def test_the_folder_holds_what_the_contract_says_and_nothing_else(finished_run: Path) -> None:
    assert {path.name for path in (finished_run / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert not [path for path in finished_run.iterdir() if path.name.startswith(".")]


def test_plain_timm_reads_every_tensor_in_a_process_without_us(finished_run: Path, tmp_path: Path) -> None:
    script = """
try:
    import insloc_hub
    sys.exit("insloc_hub could be imported")
except ImportError:
    pass
file = load_file(folder + "/model.safetensors")
model = timm.create_model("local-dir:" + folder, pretrained=True, num_classes=0)
state = model.state_dict()
torch.manual_seed(0)
blank = timm.create_model("local-dir:" + folder, num_classes=0).state_dict()
maps = timm.create_model("local-dir:" + folder, pretrained=True, features_only=True).eval()
seven = timm.create_model("local-dir:" + folder, pretrained=True, num_classes=7)
grey = timm.create_model("local-dir:" + folder, pretrained=True, in_chans=1)
x = torch.zeros(1, 3, 64, 64)
print(json.dumps({
    "names": sorted(state) == sorted(file),
    "equal": all(torch.equal(state[n], file[n]) for n in file),
    "blank differs": [n for n in file if n.endswith("conv1.weight") and torch.equal(blank[n], file[n])],
    "classes": model.num_classes, "out": list(model.eval()(x).shape),
    "strides": maps.feature_info.reduction(), "maps": [m.shape[-1] for m in maps(x)],
    "maps equal": all(torch.equal(t, file[n]) for n, t in maps.state_dict().items()),
    "seven": list(seven.eval()(x).shape),
    "seven equal": all(torch.equal(t, file[n]) for n, t in seven.state_dict().items() if not n.startswith("fc.")),
    "grey": torch.allclose(grey.conv1.weight, file["conv1.weight"].sum(1, keepdim=True), atol=1e-5),
    "input": list(timm.data.resolve_model_data_config(model)["input_size"]),
}))
"""
    assert outside(script, finished_run / "model", tmp_path) == {
        "names": True,
        "equal": True,
        "blank differs": [],
        "classes": 0,
        "out": [1, 512],
        "strides": [2, 4, 8, 16, 32],
        "maps": [32, 16, 8, 4, 2],
        "maps equal": True,
        "seven": [1, 7],
        "seven equal": True,
        "grey": True,
        "input": [3, 64, 64],
    }


def test_without_its_weights_timm_fails_instead_of_giving_a_random_model(run: Path) -> None:
    (run / "model" / "model.safetensors").unlink()
    with pytest.raises(RuntimeError, match="No suitable checkpoints found"):
        timm.create_model(f"local-dir:{run / 'model'}", pretrained=True)


def test_the_weights_are_the_checkpoints_trunk_bit_for_bit(finished_run: Path) -> None:
    file = load_file(finished_run / "model" / "model.safetensors")
    encoder = read_checkpoint(finished_run)["encoder"]
    trunk = {name.removeprefix("trunk."): tensor for name, tensor in encoder.items() if name.startswith("trunk.")}
    assert file.keys() == trunk.keys() == timm.create_model("resnet18", num_classes=0).state_dict().keys()
    assert all(torch.equal(file[name], trunk[name]) and file[name].dtype == trunk[name].dtype for name in file)
    assert int(file["bn1.num_batches_tracked"]) == 4  # trained: two steps of two groups


def test_the_weights_file_says_its_format_and_nothing_else_and_all_may_read_it(finished_run: Path) -> None:
    path = finished_run / "model" / "model.safetensors"
    with safe_open(path, framework="pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    assert path.stat().st_mode & 0o044 == 0o044


def test_the_config_has_the_shape_that_both_readers_take(config: dict[str, Any]) -> None:
    """compat.md 1.1: top-level num_classes for transformers, known keys for timm, no num_classes in model_args."""
    assert config["architecture"] == "resnet18" and config["num_classes"] == 0 and config["num_features"] == 512
    assert set(config["pretrained_cfg"]) <= {field.name for field in dataclasses.fields(PretrainedCfg)}
    assert "num_classes" not in config.get("model_args", {})
    cfg = config["pretrained_cfg"]
    assert cfg["input_size"] == [3, 64, 64] and cfg["crop_pct"] == 0.875 and cfg["interpolation"] == "bilinear"
    assert cfg["mean"] == [0.485, 0.456, 0.406] and cfg["std"] == [0.229, 0.224, 0.225]
    assert (cfg["first_conv"], cfg["classifier"], cfg["num_classes"], cfg["custom_load"]) == ("conv1", "fc", 0, False)


def test_our_key_of_the_config_tells_the_run(finished_run: Path, config: dict[str, Any]) -> None:
    ours, run = config["insloc"], json.loads((finished_run / "run.json").read_text())
    contract = {"schema", "variant", "recipe", "recipe_hash", "canvas", "sha256", "untrained", "parts", "data", "terms"}
    assert contract <= ours.keys()
    assert ours["recipe"] == run["recipe"] and ours["recipe_hash"] == run["recipe_hash"]
    assert ours["data"] == {key: run["data"][key] for key in ("name", "fingerprint", "n")}
    assert (ours["canvas"], ours["steps"], ours["untrained"], ours["parts"]) == (64, 2, [], {})
    digest = hashlib.sha256((finished_run / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert ours["sha256"] == digest


def test_the_readme_names_what_a_stranger_needs(finished_run: Path, config: dict[str, Any]) -> None:
    text = (finished_run / "model" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: timm\n")
    for fact in ("pretrained=True", config["insloc"]["sha256"], "64 x 64", "2 steps", "24 images", "Terms: unstated"):
        assert fact in text, fact
    assert str(finished_run.parent) not in text


def test_layers_that_no_gradient_reached_are_listed(start: Start, tmp_path: Path) -> None:
    start(tmp_path / "run", arch="convnext_atto", steps=2)
    folder = export_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    assert config["insloc"]["untrained"] == ["head.norm.weight", "head.norm.bias"]
    assert "`head.norm.weight`, `head.norm.bias`" in (folder / "README.md").read_text()
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert model.feature_info.reduction() == [4, 8, 16, 32]


def test_exporting_again_gives_the_same_bytes_and_replaces_what_was_there(run: Path) -> None:
    before = sha256_file(run / "model" / "model.safetensors"), (run / "model" / "config.json").read_bytes()
    (run / "model" / "stale.txt").write_text("old")
    (run / "model" / "model.safetensors").write_bytes(b"spoiled")
    assert export_run(run) == run / "model"
    assert (sha256_file(run / "model" / "model.safetensors"), (run / "model" / "config.json").read_bytes()) == before
    assert not (run / "model" / "stale.txt").exists()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_other_terms_are_written_where_people_look(run: Path) -> None:
    folder = export_run(run, terms="CC BY 4.0")
    assert json.loads((folder / "config.json").read_text())["insloc"]["terms"] == "CC BY 4.0"
    assert "Terms: CC BY 4.0" in (folder / "README.md").read_text()


def test_a_run_without_a_step_is_not_exported_and_an_older_export_stays(run: Path) -> None:
    content = read_checkpoint(run)
    torch.save({**content, "step": 0}, run / "checkpoint.pt")
    before = sha256_file(run / "model" / "model.safetensors")
    with pytest.raises(BadRun, match="not one step is trained yet"):
        export_run(run)
    assert sha256_file(run / "model" / "model.safetensors") == before


def test_a_folder_that_is_no_run_is_not_exported(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadRun, match=r"no checkpoint\.pt here"):
            export_run(folder)
    assert list(tmp_path.iterdir()) == []


def test_the_check_counts_tensors_and_sees_one_that_differs(finished_run: Path) -> None:
    tensors = load_file(finished_run / "model" / "model.safetensors")
    assert check_export(finished_run / "model") == check_export(finished_run / "model", tensors) == len(tensors) == 120
    tensors["bn1.bias"] = tensors["bn1.bias"] + 1e-6
    with pytest.raises(BadRun, match=r"1 tensors back otherwise than they were trained, e\.g\. bn1\.bias"):
        check_export(finished_run / "model", tensors)


def test_a_read_only_reader_of_transformers_takes_the_folder(finished_run: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModel.from_pretrained(finished_run / "model")
    file = load_file(finished_run / "model" / "model.safetensors")
    assert all(torch.equal(model.state_dict()[f"timm_model.{name}"], tensor) for name, tensor in file.items())
