"""A weights file as a model spec: the same code that converts, the same checks, a plain timm module in the end."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import insloc_hub
from insloc_hub.checkpoints.families import mmdet, moco
from insloc_hub.checkpoints.names import Layout
from insloc_hub.errors import BadCheckpoint, BadSpec
from insloc_hub.models.create import create_model, model_arch

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Tensors:
    """A resnet18 whose norms have moved, under timm's names."""
    random = torch.Generator().manual_seed(4)
    state = create_model("random:resnet18@4").state_dict()
    return {n: torch.rand(t.shape, generator=random) + 0.5 if t.ndim == 1 else t for n, t in state.items()}


def spelled(weights: Tensors, layout: Layout) -> Tensors:
    return {str(layout.spell(name)): tensor for name, tensor in weights.items()}


def test_a_stranger_s_training_file_becomes_timms_module(weights: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_0199.pth.tar"
    torch.save({"epoch": 200, "state_dict": {f"module.{n}": t for n, t in spelled(weights, moco.MOCO).items()}}, path)
    model = create_model(str(path))
    assert model_arch(str(path)) == "resnet18" and not model.training and "state_dict" not in model.pretrained_cfg
    state = model.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[n], weights[n]) for n in weights)
    seven = create_model(str(path), num_classes=7)
    assert seven(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert torch.equal(seven.layer4[1].bn2.bias, weights["layer4.1.bn2.bias"])
    maps = create_model(str(path), features_only=True, out_indices=(3,))
    assert torch.equal(maps(torch.zeros(1, 3, 64, 64))[0], model.forward_intermediates(torch.zeros(1, 3, 64, 64))[1][3])
    features = insloc_hub.load(str(path), device="cpu")([torch.zeros(3, 50, 40, dtype=torch.uint8)], boxes=[[[1, 2, 30, 40]]])
    assert features.pooled is not None and features.pooled.shape == (1, 512)


def test_what_is_unknown_of_its_input_is_warned_of_and_another_input_refused(
    weights: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for style, path in (("", tmp_path / "a.pth"), ("style='caffe'", tmp_path / "b.pth")):
        torch.save({"meta": {"config": style}, "state_dict": spelled(weights, mmdet.FPN)}, path)
    with caplog.at_level(logging.WARNING):
        create_model(str(tmp_path / "a.pth"))
    assert "stride in the unknown convolution" in caplog.text
    with pytest.raises(BadSpec, match="made for BGR input and a stride in the 1x1"):
        create_model(str(tmp_path / "b.pth"))


def test_a_file_of_no_known_layout_is_refused_never_random(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="none of a known layout"):
        create_model(str(tmp_path / "model.safetensors"))
    (tmp_path / "weights.pth").write_text("<html>not found</html>")
    with pytest.raises(BadCheckpoint, match="a text file"):
        create_model(str(tmp_path / "weights.pth"))


def test_a_wrong_mapping_is_refused(weights: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(weights, tmp_path / "a.safetensors")
    starts = (
        ("layer1.0.conv1.", "layer1.0.conv2."),
        ("layer1.0.conv2.", "layer1.0.conv1."),
        ("neck.", None),
        ("head.", None),
        ("", ""),
    )
    wrong = Layout(name="wrong", starts=starts, convention=moco.MOCO.convention)
    monkeypatch.setattr("insloc_hub.checkpoints.layouts.LAYOUTS", (wrong,))
    with pytest.raises(BadSpec, match="timm would make another network of it"):
        create_model(str(tmp_path / "a.safetensors"))
