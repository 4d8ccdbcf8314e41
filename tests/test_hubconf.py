"""torch.hub's door: what it lists, what it loads, and that no other package than the declared ones is needed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from bare import bare_python, closure
from safetensors.torch import load_file, save_file

from insloc_hub.errors import BadSpec, UnknownName
from insloc_hub.files import sha256_file
from insloc_hub.models.create import create_model

ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}

# What torch, timm, safetensors and huggingface_hub bring along may be imported; these may not.
NOT_DECLARED = (
    "jaxtyping",
    "beartype",
    "tyro",
    "rich",
    "fastapi",
    "pydantic",
    "uvicorn",
    "scipy",
    "matplotlib",
    "pycocotools",
    "prometheus_client",
    "insloc_eval",
    "insloc_server",
)


def in_a_fresh_process(script: str, *args: object, cwd: Path) -> Any:
    """What a script prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=ENV, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hubconf() -> ModuleType:
    """The file as torch.hub runs it: a module that stays out of sys.modules."""
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet18 folder of the form that `insloc export` writes."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(7)
    tensors = timm.create_model("resnet18", num_classes=0).state_dict()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    cfg = {"num_classes": 0, "first_conv": "conv1", "classifier": "fc", "input_size": [3, 64, 64]}
    ours = {"sha256": sha256_file(folder / "model.safetensors")}
    config = {"architecture": "resnet18", "num_classes": 0, "pretrained_cfg": cfg, "insloc": ours}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_it_lists_its_three_entry_points_and_nothing_else(hubconf: ModuleType) -> None:
    """The rule of torch.hub.list: every callable without a leading underscore, imported ones included."""
    found = [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")]
    assert found == ["insloc", "insloc_resnet18", "insloc_resnet50"]


def test_help_is_a_sentence_that_stands_alone(hubconf: ModuleType) -> None:
    for name in ("insloc", "insloc_resnet18", "insloc_resnet50"):
        first = getattr(hubconf, name).__doc__.splitlines()[0]
        assert len(first) > 10 and first[0].isupper() and first.rstrip()[-1] in ".,:"


def test_dependencies_are_importable_names(hubconf: ModuleType) -> None:
    assert sorted(hubconf.dependencies) == ["huggingface_hub", "safetensors", "timm", "torch"]


def test_torch_hub_loads_the_weights_of_a_folder(export: Path, tmp_path: Path) -> None:
    script = """
import json, sys, torch
from safetensors.torch import load_file
model = torch.hub.load(sys.argv[1], "insloc_resnet18", source="local", weights=sys.argv[2])
seven = torch.hub.load(sys.argv[1], "insloc", "local-dir:" + sys.argv[2], source="local", num_classes=7)
random = torch.hub.load(sys.argv[1], "insloc_resnet18", source="local", pretrained=False)
file = load_file(sys.argv[2] + "/model.safetensors")
state = model.state_dict()
print(json.dumps({
    "names": sorted(state) == sorted(file), "equal": all(torch.equal(state[n], file[n]) for n in file),
    "training": model.training, "module": type(model).__module__, "hubconf": "hubconf" in sys.modules,
    "seven": list(seven(torch.zeros(1, 3, 64, 64)).shape), "seven equal": torch.equal(seven.conv1.weight, file["conv1.weight"]),
    "random differs": not torch.equal(random.conv1.weight, file["conv1.weight"]),
}))
"""
    assert in_a_fresh_process(script, ROOT, export, cwd=tmp_path) == {
        "names": True,
        "equal": True,
        "training": False,
        "module": "timm.models.resnet",
        "hubconf": False,
        "seven": [1, 7],
        "seven equal": True,
        "random differs": True,
    }


def test_it_gives_what_create_model_gives(hubconf: ModuleType, export: Path) -> None:
    ours, theirs = hubconf.insloc_resnet18(weights=str(export)).state_dict(), create_model(str(export)).state_dict()
    file = load_file(export / "model.safetensors")
    assert ours.keys() == theirs.keys() == file.keys()
    assert all(torch.equal(ours[name], theirs[name]) and torch.equal(ours[name], file[name]) for name in ours)
    random = hubconf.insloc("random:resnet18@3")
    assert torch.equal(random.conv1.weight, create_model("random:resnet18@3").conv1.weight)


def test_the_weights_file_itself_may_be_named(hubconf: ModuleType, export: Path) -> None:
    model = hubconf.insloc_resnet18(weights=str(export / "model.safetensors"), num_classes=3)
    assert model.fc.out_features == 3


def test_a_card_may_be_named_by_its_tag_and_is_found_when_it_is_the_only_one(
    hubconf: ModuleType, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "insloc_resnet18.mine").symlink_to(export)
    weight = load_file(export / "model.safetensors")["conv1.weight"]
    for model in (hubconf.insloc_resnet18(weights="mine"), hubconf.insloc_resnet18(), hubconf.insloc("insloc_resnet18.mine")):
        assert torch.equal(model.conv1.weight, weight)
    (tmp_path / "zoo" / "insloc_resnet18.second").symlink_to(export)
    with pytest.raises(BadSpec, match="2 cards are here"):
        hubconf.insloc_resnet18()


def test_another_architecture_than_the_named_one_is_refused(hubconf: ModuleType, export: Path) -> None:
    with pytest.raises(BadSpec, match="holds a resnet18, not a resnet50"):
        hubconf.insloc_resnet50(weights=str(export))


def test_no_weights_named_and_none_at_hand_is_an_error_and_never_a_random_model(hubconf: ModuleType) -> None:
    with pytest.raises(BadSpec, match=r"which weights of resnet50.*pretrained=False for random"):
        hubconf.insloc_resnet50()
    with pytest.raises(ValueError, match="pretrained must be True"):
        hubconf.insloc_resnet50(pretrained=False, weights="somewhere")
    with pytest.raises(UnknownName):
        hubconf.insloc("insloc_resnet18.nowhere")


def test_every_package_that_must_be_absent_is_installed_here() -> None:
    """So that a misspelt name can't make the test below agree with anything."""
    found = [name for name in NOT_DECLARED if importlib.util.find_spec(name) is None]
    assert found == []


def test_a_checkout_that_was_not_imported_first_says_so(tmp_path: Path) -> None:
    other = tmp_path / "hubconf.py"
    other.write_bytes((ROOT / "hubconf.py").read_bytes())
    spec = importlib.util.spec_from_file_location("hubconf_of_another_checkout", other)
    assert spec is not None and spec.loader is not None
    with pytest.warns(UserWarning, match="insloc_hub was imported from .* before; its code is used"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_stranger_lists_asks_and_loads_with_the_declared_packages_only(
    hubconf: ModuleType, export: Path, tmp_path: Path
) -> None:
    """A copy of the repository where torch.hub keeps it, and a Python that has really nothing else."""
    python = bare_python(tmp_path / "bare", hubconf.dependencies)
    brought = {name.lower().replace("-", "_") for name in closure(hubconf.dependencies)}
    strange = [name for name in NOT_DECLARED if name not in brought]
    assert {"jaxtyping", "scipy", "fastapi", "tyro"} <= set(strange)
    clone = tmp_path / "torch/hub/lab_insloc_hub_main"
    for name in ("insloc_hub", "eval", "server"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hubconf.py", clone)
    script = """
import importlib.util, json, sys, torch
from safetensors.torch import load_file
absent = [name for name in [*sys.argv[2].split(","), "insloc_hub"] if importlib.util.find_spec(name) is None]
repo = "lab/insloc_hub:main"
listed = torch.hub.list(repo, trust_repo=True)
helps = {name: torch.hub.help(repo, name, trust_repo=True).splitlines()[0] for name in listed}
model = torch.hub.load(repo, "insloc_resnet18", weights=sys.argv[1], trust_repo=True)
named = torch.hub.load(repo, "insloc", sys.argv[1], num_classes=3, trust_repo=True)
random = torch.hub.load(repo, "insloc_resnet18", pretrained=False, trust_repo=True)
file = load_file(sys.argv[1] + "/model.safetensors")
state = model.state_dict()
import insloc_hub
ours = [name.split(".")[1] for name in sys.modules if name.startswith("insloc_hub.")]
features = insloc_hub.load(sys.argv[1], device="cpu")([torch.zeros(3, 50, 40, dtype=torch.uint8)], boxes=[[[1, 2, 30, 40]]])
print(json.dumps({
    "absent": absent, "listed": listed, "helps": helps, "from": insloc_hub.__file__,
    "equal": state.keys() == file.keys() and all(torch.equal(state[n], file[n]) for n in file),
    "named": [list(named(torch.zeros(1, 3, 64, 64)).shape), torch.equal(named.conv1.weight, file["conv1.weight"])],
    "random": torch.equal(random.conv1.weight, file["conv1.weight"]), "regions": list(features.regions[0].shape),
    "training code": sorted({"pretrain", "contrast", "release", "demo", "cli"} & set(ours)),
}))
"""
    env = {"PATH": os.environ["PATH"], "TORCH_HOME": str(tmp_path / "torch"), "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    words = [python, "-c", script, export, ",".join(strange)]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "absent": [*strange, "insloc_hub"],
        "listed": ["insloc", "insloc_resnet18", "insloc_resnet50"],
        "helps": {
            name: getattr(hubconf, name).__doc__.splitlines()[0] for name in ("insloc", "insloc_resnet18", "insloc_resnet50")
        },
        "from": str(clone / "insloc_hub" / "__init__.py"),
        "equal": True,
        "named": [[1, 3], True],
        "random": False,
        "regions": [1, 256],
        "training code": [],
    }


def test_what_the_declared_packages_need_is_not_the_whole_environment(hubconf: ModuleType) -> None:
    """So that the environment above is a bare one because of its making."""
    assert {"torch", "timm", "numpy", "pillow"} <= {name.lower() for name in closure(hubconf.dependencies)}
    assert not {"scipy", "jaxtyping", "fastapi"} & closure(hubconf.dependencies)
