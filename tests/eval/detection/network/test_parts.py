"""The pretrained neck and head in a detector: the released model's own numbers come out; other parts are refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from golden import error, fill, image
from safetensors.torch import save_file
from torch import Tensor, nn

from insloc_eval.detection.build import build_detector
from insloc_eval.detection.network.parts import load_parts, read_parts
from insloc_eval.protocols.detection import Detection
from insloc_hub.encoders.fpn import FPNEncoder
from insloc_hub.errors import BadCheckpoint, InslocError

ASSETS = Path(__file__).resolve().parents[3] / "assets"
Make = Callable[..., Detection]


def filled(module: nn.Module, start: str, theirs: str) -> dict[str, Tensor]:
    """Every tensor of `module` from the filler, named start + own, filled as the release's theirs + own."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return {start + name: torch.from_numpy(fill(theirs + name, shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def released() -> tuple[nn.Module, dict[str, Tensor]]:
    """ResNet-50 with the filler's weights, and neck and head as an exported folder has them."""
    encoder = FPNEncoder(timm.create_model("resnet50", num_classes=0), "resnet50", 128)
    encoder.trunk.load_state_dict(filled(encoder.trunk, "", "backbone."))
    return encoder.trunk, filled(encoder.neck, "neck.", "neck.") | filled(encoder.head, "head.", "roi_head.bbox_head.")


def by_hand(vectors: Tensor) -> Tensor:
    """The rest of the released head, that no detector has: fc, ReLU, fc."""
    for name, wide, relu in (("shared_fcs.1", 1024, True), ("fc_cls", 128, False)):
        weight = torch.from_numpy(fill(f"roi_head.bbox_head.{name}.weight", (wide, 1024))).to(vectors)
        vectors = vectors @ weight.T + torch.from_numpy(fill(f"roi_head.bbox_head.{name}.bias", (wide,))).to(vectors)
        vectors = vectors.clamp(min=0) if relu else vectors
    return vectors


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_golden_box_features_come_out_of_a_detector_with_trunk_fpn_and_head(
    tiny: Make, released: tuple[nn.Module, dict[str, Tensor]], mode: str
) -> None:
    """The method pools every box on every level, so the level is fixed here (contracts.md 11)."""
    trunk, parts = released
    detector = build_detector(tiny("fpn", init_parts="trunk+fpn+head"), trunk, classes=2, seed=0, parts=parts)
    detector.double().train(mode == "train")
    with np.load(ASSETS / "reference_fpn.npz") as arrays:
        frozen = dict(arrays)
    boxes = torch.from_numpy(frozen["boxes.gt_q"]).double()
    rois = torch.cat([torch.arange(2).double()[:, None], boxes], dim=1)
    pooler = detector.roi_heads.box_roi_pool
    with torch.no_grad():
        maps = detector.backbone(image("input.q").double())
        grids = torch.stack([pooler.pool(maps[name], rois, stride) for name, stride in pooler.strides.items()], dim=1)
        found = by_hand(detector.roi_heads.box_head(grids.flatten(0, 1))).reshape(2, 4, 128)
    for level, name in enumerate(pooler.strides, 2):
        assert error(maps[name][:, :8, :3, :3], frozen[f"fpn.{mode}.p{level}.slice"]) < 1e-11
        assert error(maps[name].norm(), frozen[f"fpn.{mode}.p{level}.norm"]) < 1e-11
    assert error(found, frozen[f"fpn.{mode}.embed_gt"]) < 1e-11


@pytest.fixture
def small(trunk: nn.Module) -> dict[str, Tensor]:
    """Parts of a resnet10t, by our names."""
    torch.manual_seed(5)
    encoder = FPNEncoder(trunk, "resnet10t", 32)
    state = encoder.state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if name.startswith(("neck.", "head."))}


def test_what_is_not_asked_for_starts_anew(tiny: Make, trunk: nn.Module, small: dict[str, Tensor]) -> None:
    plain, neck, both = (
        build_detector(tiny(init_parts=which), trunk, classes=2, seed=0, parts=small).state_dict()
        for which in ("trunk", "trunk+fpn", "trunk+fpn+head")
    )
    lateral, conv = "backbone.fpn.inner_blocks.0.0.weight", "roi_heads.box_head.0.0.weight"
    assert not torch.equal(plain[lateral], neck[lateral]) and torch.equal(neck[lateral], both[lateral])
    assert torch.equal(plain[conv], neck[conv]) and torch.equal(both[conv], small["head.shared_convs.0.conv.weight"])
    others = [name for name in plain if not name.startswith(("backbone.fpn.", "roi_heads.box_head."))]
    assert all(torch.equal(plain[name], both[name]) for name in others)


def test_the_extra_norm_is_new_in_every_arm(tiny: Make, trunk: nn.Module, small: dict[str, Tensor]) -> None:
    detector = build_detector(tiny(extra_norm=True, init_parts="trunk+fpn+head"), trunk, classes=2, seed=0, parts=small)
    assert detector.roi_heads.box_head.fc_extra_norm.weight.tolist() == [1.0] * 1024


def test_parts_that_miss_a_tensor_or_have_another_shape_are_refused(
    tiny: Make, trunk: nn.Module, small: dict[str, Tensor]
) -> None:
    detector = build_detector(tiny(), trunk, classes=2, seed=0)
    missing = {name: tensor for name, tensor in small.items() if name != "neck.fpn_convs.3.bn.bias"}
    with pytest.raises(BadCheckpoint, match=r"layer_blocks\.3\.1\.bias is missing, so these are parts of another network"):
        load_parts(detector, missing, "trunk+fpn")
    wide = {**small, "neck.lateral_convs.0.conv.weight": torch.zeros(256, 256, 1, 1)}
    with pytest.raises(
        BadCheckpoint, match=r"is \[256, 256, 1, 1\], the detector's \[256, 64, 1, 1\]: the parts of another trunk"
    ):
        load_parts(detector, wide, "trunk+fpn")


def folder(place: Path, tensors: dict[str, Tensor]) -> Path:
    (place / "parts").mkdir(parents=True)
    save_file(tensors, place / "parts" / "fpn_head.safetensors")
    digest = hashlib.sha256((place / "parts" / "fpn_head.safetensors").read_bytes()).hexdigest()
    said = {"fpn_head": {"file": "parts/fpn_head.safetensors", "sha256": digest}}
    (place / "config.json").write_text(json.dumps({"architecture": "resnet10t", "insloc": {"parts": said}}), encoding="utf-8")
    return place


def test_an_exported_folder_gives_its_parts_and_a_damaged_one_is_refused(tmp_path: Path, small: dict[str, Tensor]) -> None:
    good = folder(tmp_path / "good", small)
    found = read_parts(str(good))
    assert found.keys() == small.keys() and all(torch.equal(found[name], small[name]) for name in small)
    path = good / "parts" / "fpn_head.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadCheckpoint, match=r"another sha256 than config\.json says"):
        read_parts(str(good))
    path.unlink()
    with pytest.raises(BadCheckpoint, match=r"is missing, though config\.json describes it"):
        read_parts(str(good))


def test_a_model_without_a_neck_says_so(exported_run: Path) -> None:
    with pytest.raises(InslocError, match=r"has no pretrained neck or box head .* Use --init-parts trunk"):
        read_parts(str(exported_run / "model"))
    with pytest.raises(InslocError, match="random:resnet18 has no pretrained neck"):
        read_parts("random:resnet18")
