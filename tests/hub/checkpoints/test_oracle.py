"""The second opinion computes what torchvision's own modules compute, and knows nothing of our tables."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from insloc_hub.checkpoints import oracle
from insloc_hub.checkpoints.families import detectron2, mmdet, moco, trainers
from insloc_hub.checkpoints.names import Layout

Tensors = dict[str, Tensor]


def test_it_imports_none_of_our_tables() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)] + [
        a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names
    ]
    assert [name for name in imported if name and name.startswith("insloc_hub")] == ["insloc_hub.shapes"]


def torchvisions(model: torch.nn.Module, image: Tensor) -> Tensors:
    x = model.relu(model.bn1(model.conv1(image)))  # type: ignore[operator]
    found = {"stem": x}
    x = model.maxpool(x)  # type: ignore[operator]
    for i in range(1, 5):
        x = getattr(model, f"layer{i}")(x)
        found[f"c{i + 1}"] = x
    return found


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d"])
@torch.no_grad()
def test_a_trunk_is_torchvisions(sound: Callable[..., Tensors], arch: str) -> None:
    tensors = sound(arch, 3)
    model = getattr(torchvision.models, arch)().eval()
    assert model.load_state_dict(tensors, strict=False).missing_keys == ["fc.weight", "fc.bias"]
    image = oracle.probe_image(64)
    found, wanted = oracle.activations(tensors, image=image), torchvisions(model, image)
    assert found.keys() == wanted.keys()
    assert all(
        torch.allclose(found[stage], wanted[stage], rtol=1e-5, atol=0) or torch.equal(found[stage], wanted[stage])
        for stage in wanted
    )


@torch.no_grad()
def test_pyramid_and_head_are_those_of_torchvisions_mask_rcnn(
    sound: Callable[..., Tensors], spell: Callable[..., Tensors]
) -> None:
    from insloc_hub.checkpoints.families import torchvision as tv

    tensors = spell(sound("resnet50", 4, ("trunk", "fpn", "head")), tv.DETECTOR)
    model = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
    assert model.load_state_dict(tensors, strict=False).unexpected_keys == []
    image = oracle.probe_image(64)
    found = oracle.activations(tensors, image=image)
    maps = model.backbone(image)
    assert list(found)[5:] == ["p2", "p3", "p4", "p5", "fc1"]
    for i in range(4):
        assert torch.allclose(found[f"p{i + 2}"], maps[str(i)], rtol=1e-5, atol=1e-5)
    assert torch.allclose(found["fc1"], model.roi_heads.box_head(oracle.probe_grid()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layout",
    [detectron2.BARE, detectron2.C4, mmdet.C4, mmdet.FPN, moco.MOCO, moco.SOCO, trainers.LIGHTLY, trainers.VISSL],
    ids=lambda x: x.name,
)
def test_a_trunk_gives_the_same_under_every_familys_names(
    small: Tensors, sound: Callable[..., Tensors], spell: Callable[..., Tensors], layout: Layout
) -> None:
    """The names are those of the published lists (test_layouts); the twin's values must not be taken."""
    image = oracle.probe_image(64)
    wanted = oracle.activations(small, image=image)
    twin = sound("resnet18", 9) if layout.twin else {}
    tensors = spell(small, layout, "module.", twin)
    found = oracle.activations(tensors, image=image)
    assert all(torch.equal(found[stage], wanted[stage]) for stage in wanted)
    if twin:
        other = oracle.activations(tensors, "key", image)
        assert torch.equal(other["c5"], oracle.activations(twin, image=image)["c5"]) and not torch.equal(
            other["c5"], found["c5"]
        )


def test_the_probe_tells_channels_rows_and_columns_apart() -> None:
    image = oracle.probe_image()
    others = [image.flip(1), image.transpose(2, 3), image.flip(2), image.flip(3)]
    assert all((image - other).abs().max() > 0.5 for other in others)
    assert image.std() > 0.5 and oracle.probe_grid().shape == (2, 256, 7, 7)
    assert torch.equal(image, oracle.probe_image())


def test_what_is_no_network_is_an_error(small: Tensors) -> None:
    with pytest.raises(StopIteration):
        oracle.activations({"a": torch.zeros(3)})
    with pytest.raises(KeyError):
        oracle.activations({n: t for n, t in small.items() if n != "layer2.0.bn1.bias"})
    with pytest.raises(RuntimeError):
        oracle.activations(small | {"layer2.0.conv1.weight": torch.zeros(3, 3, 3, 3)})
