"""Our names inside timm's registry. Each in a process of its own: a registration lasts as long as the process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from registry import Registry

from insloc_hub.models.zoo import Entry, add_entry

START = """
import json, sys, warnings
warnings.simplefilter("error")
import timm, torch
before = timm.list_models()
import insloc_hub.models.register
def raised(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


@pytest.fixture
def home(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path / "home"))
    zoo = tmp_path / "home" / "zoo"
    shutil.copytree(finished_run / "model", zoo / "insloc_resnet18.mine")
    shutil.copytree(finished_run / "model", zoo / "insloc_nonsense.mine")
    shutil.copytree(finished_run / "model", zoo / "insloc_resnet18.spoiled")
    weights = zoo / "insloc_resnet18.spoiled" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    shutil.copytree(finished_run / "model", zoo / "insloc_resnet18.odd")
    config = json.loads((zoo / "insloc_resnet18.odd" / "config.json").read_text())
    config["pretrained_cfg"]["colour"] = "red"
    (zoo / "insloc_resnet18.odd" / "config.json").write_text(json.dumps(config))
    return zoo


def timm_says(script: str, *words: object, **env: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", START + script, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_timm_lists_and_creates_our_names(home: Path, finished_run: Path) -> None:
    script = """
from safetensors.torch import load_file
file = load_file(sys.argv[1] + "/model/model.safetensors")
def equal(model):
    state = model.state_dict()
    return all(torch.equal(state[n], t) for n, t in file.items() if n in state)
name = "insloc_resnet18.mine"
plain = timm.create_model(name, pretrained=True)
seven = timm.create_model(name, pretrained=True, num_classes=7)
maps = timm.create_model("insloc_resnet18", pretrained=True, features_only=True, out_indices=(2, 3))
blank = timm.create_model(name)
grey = timm.create_model(name, pretrained=True, in_chans=1)
print(json.dumps({
    "new": sorted(set(timm.list_models()) - set(before)), "ours": timm.list_models("insloc*"),
    "had": timm.list_models("insloc*", pretrained=True),
    "known": [n for n in timm.list_models("insloc*", include_tags=True) if "50" in n],
    "is": [timm.models.is_model_pretrained(name), timm.models.is_model_pretrained("insloc_resnet50.c4_200ep_in1k")],
    "stock": [plain.pretrained_cfg["architecture"], type(plain).__module__],
    "equal": [equal(plain), equal(seven), equal(maps)], "blank": equal(blank),
    "shapes": [list(plain.eval()(torch.zeros(1, 3, 64, 64)).shape), list(seven.eval()(torch.zeros(1, 3, 64, 64)).shape)],
    "strides": maps.feature_info.reduction(), "classes": [blank.num_classes, plain.num_classes],
    "grey": torch.allclose(grey.conv1.weight, file["conv1.weight"].sum(1, keepdim=True), atol=1e-5),
    "input": list(timm.data.resolve_model_data_config(plain)["input_size"]),
    "absent": raised(lambda: timm.create_model("insloc_resnet50.c4_200ep_in1k", pretrained=True)),
    "no weights": timm.create_model("insloc_resnet50.c4_200ep_in1k", num_classes=3).fc.out_features,
    "spoiled": raised(lambda: timm.create_model("insloc_resnet18.spoiled", pretrained=True, num_classes=7)),
    "unknown": raised(lambda: timm.create_model("insloc_resnet18.mime", pretrained=True)),
}))
"""
    found = timm_says(script, finished_run)
    four = [f"insloc_resnet50.{v}_{e}ep_in1k" for v in ("c4", "fpn") for e in (200, 400)]
    assert "the authors' file" in found.pop("absent") and "did you mean 'insloc_resnet18.mine'" in found.pop("unknown")
    assert "its sha256 is not the one in config.json" in found.pop("spoiled")  # timm alone would load them
    assert found == {
        "new": ["insloc_resnet18", "insloc_resnet50"],
        "ours": ["insloc_resnet18", "insloc_resnet50"],
        "had": ["insloc_resnet18.mine", "insloc_resnet18.spoiled"],
        "known": four,
        "is": [True, False],
        "stock": ["resnet18", "timm.models.resnet"],
        "equal": [True, True, True],
        "blank": False,
        "shapes": [[1, 512], [1, 7]],
        "strides": [8, 16],
        "classes": [0, 0],
        "grey": True,
        "input": [3, 64, 64],
        "no weights": 3,
    }


def test_a_card_of_the_hub_is_listed_as_pretrained_and_fetched_when_asked_for(hub: Registry, finished_run: Path) -> None:
    folder = finished_run / "model"
    repo = hub.create("lab/resnet18.insloc_far", {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})
    add_entry(Entry(name="insloc_resnet18.far", origin="published", hub="lab/resnet18.insloc_far", revision=repo.head))
    script = """
had = timm.list_models("insloc*", pretrained=True)
model = timm.create_model("insloc_resnet18.far", pretrained=True)
print(json.dumps([had, model.num_classes]))
"""
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    assert timm_says(script, **env) == [["insloc_resnet18.far"], 0]
    assert hub.count("GET /lab/resnet18.insloc_far/resolve/") == 2
