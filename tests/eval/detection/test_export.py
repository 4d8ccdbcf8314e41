"""A folder for torchvision: its script runs where nothing of ours is installed, and notices what does not belong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from insloc_eval.detection import export as module
from insloc_eval.detection.build import build_detector
from insloc_eval.detection.data import Sample
from insloc_eval.detection.export import LOAD, check_arch, export_detector
from insloc_eval.detection.resume import save_training
from insloc_eval.detection.schedule import make_optimizer
from insloc_eval.protocols.detection import Detection
from insloc_hub.errors import BadData, BadRun, InslocError
from insloc_hub.files import write_json
from insloc_hub.models.create import create_model
from insloc_hub.records import DataFacts, ModelFacts, Result

Make = Callable[..., Detection]
Pictures = Callable[..., list[Sample]]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """The script, started elsewhere, without this project on the path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-c", WITHOUT_US, str(folder / "load.py")]
    return subprocess.run(command, env=clean, cwd=folder.parent, capture_output=True, text=True, timeout=120)


WITHOUT_US = f"""
import runpy, sys
sys.path += {[p for p in sys.path if p.endswith("-packages")]!r}
sys.modules["insloc_eval"] = sys.modules["insloc_hub"] = None
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
runpy.run_path(sys.argv[1])
"""


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    made: nn.Module = timm.create_model("resnet18", num_classes=0)
    return made


@pytest.mark.parametrize(("variant", "mask", "norm"), [("fpn", False, True), ("c4", True, True)])
def test_the_script_loads_the_folder_with_torchvision_alone(
    tiny: Make, pictures: Pictures, resnet: nn.Module, tmp_path: Path, variant: str, mask: bool, norm: bool
) -> None:
    protocol = tiny(variant, mask=mask, extra_norm=norm, score_floor=0.2, most_detections=6)
    detector = build_detector(protocol, resnet, classes=2, seed=0)
    image = pictures(1)[0].load()
    out = tmp_path / "export"
    facts = export_detector(detector, protocol, arch="resnet18", classes=("wide", "tall"), image=image, out=out)
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert "on resnet18 finds wide, tall" in done.stdout
    example = load_file(out / "example.safetensors")
    with torch.no_grad():
        found = detector([image])[0]
    assert len(example["boxes"]) == 6 and torch.equal(example["boxes"], found["boxes"])
    assert facts["stock_arithmetic"]["boxes_with_ours"] == 6 and "not this detector's" in facts["stock_arithmetic"]["note"]
    assert json.loads((out / "facts.json").read_text(encoding="utf-8")) == facts
    if variant == "fpn":
        example["boxes"] += 1
        save_file(example, out / "example.safetensors")
        changed = run(out)
        assert changed.returncode == 1 and "are not the 6 stored ones" in changed.stderr


def test_the_five_lines_are_five() -> None:
    lines = [line for line in LOAD.split("HERE = Path(__file__).parent\n")[1].splitlines() if not line.startswith("print")]
    assert len(lines) == 5


def test_a_network_that_torchvision_lacks_is_refused() -> None:
    with pytest.raises(InslocError, match=r"mobilenetv3_small_050: torchvision has no such network.* it has resnet50"):
        check_arch("mobilenetv3_small_050")


def test_the_detector_of_a_record_is_exported_from_its_training(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Pictures
) -> None:
    """A record as insloc-eval run leaves one, with the training in the folder of its name."""
    protocol = tiny("c4")
    monkeypatch.setattr(module, "RECORDS", (protocol,))
    record = make_record(tmp_path / "results", protocol.title)
    spec, picture = "random:resnet18@3", pictures(1)[0]
    detector = build_detector(protocol, create_model(spec), classes=2, seed=1)
    optimizer = make_optimizer(detector, protocol)
    monkeypatch.setattr(module, "load_detection_split", lambda data, asked: Told(classes=("a", "b"), ask=(picture,)))
    with pytest.raises(BadRun, match=r"detector\.pt: no such file"):
        module.export_record(record, tmp_path, tmp_path / "out")
    for finished in (False, True):
        save_training(record.with_suffix(""), "x", detector, optimizer, torch.zeros(1, 4), finished)
        if not finished:
            with pytest.raises(BadData, match="training is not finished"):
                module.export_record(record, tmp_path, tmp_path / "out")
            assert not (tmp_path / "out").exists()
    monkeypatch.setattr(module, "onnx_bytes", lambda told, image: str(tuple(image.shape)).encode())
    facts = module.export_record(record, tmp_path, tmp_path / "out", onnx=True)
    assert (tmp_path / "out" / "detector.onnx").read_bytes() == b"(3, 64, 96)" and facts["onnx_input"] == [3, 64, 96]
    assert facts["classes"] == ["a", "b"] and facts["extra_norm"] and facts["variant"] == "c4"
    weights = load_file(tmp_path / "out" / "detector.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in detector.state_dict().items())
    monkeypatch.setattr(module, "load_detection_split", lambda data, asked: Told(classes=("a",), ask=(picture,)))
    with pytest.raises(BadData, match="has 1 classes, the detector 2; give the data that it was trained on"):
        module.export_record(record, tmp_path, tmp_path / "out")
    with pytest.raises(BadData, match=r"is of linear/logistic@1, which trains no detector"):
        module.export_record(make_record(tmp_path / "other", "linear/logistic@1"), tmp_path, tmp_path / "out")


@dataclass(frozen=True)
class Told:
    """The two fields of a split that an export reads."""

    classes: tuple[str, ...]
    ask: tuple[Sample, ...]


def make_record(results: Path, title: str) -> Path:
    made = Result(
        task=title.split("/")[0],
        protocol=title,
        protocol_hash="ab" * 32,
        model=ModelFacts(spec="random:resnet18@3", arch="resnet18", sha256="00"),
        data=DataFacts(name="photos", split="test", fingerprint="cd" * 32, n=1),
        pretrain_seed=None,
        eval_seed=0,
        metrics={},
        not_applicable="",
    )
    path = results / made.task / f"{made.id}.json"
    write_json(path, made.as_dict())
    return path
