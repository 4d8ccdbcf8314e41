"""The C4 encoder against a slow version: the model's own layers one by one, torchvision's RoIAlign, a plain mean."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from insloc_hub.encoders.backbone import build_trunk
from insloc_hub.encoders.c4 import C4Encoder, c4_region_vectors
from insloc_hub.errors import InslocError, UnknownName

BOXES = torch.tensor([[8.0, 4, 80, 50], [-13.0, 20, 50, 74], [40.0, 30, 96, 64]], dtype=torch.float64)


def build_c4(arch: str, roi_size: int, embedding_dim: int, seed: int) -> C4Encoder:
    torch.manual_seed(seed)
    return C4Encoder(build_trunk(arch, seed), arch, roi_size, embedding_dim)


def stem_and_stages(model: nn.Module, arch: str) -> tuple[list[nn.Module], nn.Module]:
    """Layers up to stride 16, and the last stage."""
    if arch.startswith("resnet"):
        return [model.conv1, model.bn1, model.act1, model.maxpool, model.layer1, model.layer2, model.layer3], model.layer4
    if arch.startswith("regnet"):
        return [model.stem, model.s1, model.s2, model.s3], model.s4
    return [model.stem, *model.stages[:3]], model.stages[3]


def slow_vectors(model: nn.Module, arch: str, images: Tensor, boxes: Tensor, roi_size: int) -> Tensor:
    layers, last = stem_and_stages(model, arch)
    x = images
    for layer in layers:
        x = layer(x)
    grids = [
        roi_align(x[i : i + 1], [boxes[i : i + 1]], roi_size, spatial_scale=1 / 16, sampling_ratio=-1, aligned=True)
        for i in range(len(images))
    ]
    out = last(torch.cat(grids))
    return torch.stack([out[:, :, y, x] for y in range(out.shape[2]) for x in range(out.shape[3])]).mean(dim=0)


def images(seed: int = 0) -> Tensor:
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("arch", "training"), [("resnet18", False), ("resnet18", True), ("regnetx_002", True), ("convnext_atto", False)]
)
def test_region_vectors_equal_the_layers_one_by_one(arch: str, training: bool) -> None:
    encoder = build_c4(arch, 8, 32, seed=0).double().train(training)
    stage = encoder.trunk.get_submodule(encoder.stage_name)
    with torch.no_grad():
        ours = c4_region_vectors(encoder.trunk, stage, images(), BOXES, 8)
        slow = slow_vectors(encoder.trunk, arch, images(), BOXES, 8)
    assert (ours - slow).abs().max() / slow.abs().max() < 1e-12
    assert (ours - ours.mean(dim=0)).abs().max() > 1e-3  # three different vectors


def test_embeddings_are_the_projected_vectors_on_the_unit_sphere() -> None:
    encoder = build_c4("resnet10t", 8, 32, seed=0).double().eval()
    fc1, fc2 = encoder.projection.fc1, encoder.projection.fc2
    with torch.no_grad():
        out = encoder(images(), BOXES[:, None])
        vectors = c4_region_vectors(encoder.trunk, encoder.trunk.layer4, images(), BOXES, 8)
        raw = (vectors @ fc1.weight.T + fc1.bias).clamp(min=0) @ fc2.weight.T + fc2.bias
    assert out.shape == (3, 1, 32)
    assert torch.allclose(out[:, 0], raw / (raw**2).sum(dim=1, keepdim=True).sqrt(), atol=1e-12)


def test_the_box_decides_and_what_lies_far_outside_of_it_does_not() -> None:
    encoder = build_c4("resnet10t", 8, 32, seed=0).double().eval()
    with torch.no_grad():
        here, there = encoder(images(), BOXES[:, None]), encoder(images(), BOXES[:, None] + 20)
    assert (here - there).abs().max() > 1e-3


def test_the_widths_of_the_projection_follow_the_trunk() -> None:
    encoder = C4Encoder(timm.create_model("regnetx_002", num_classes=0), "regnetx_002", 8, 16)
    assert (encoder.projection.fc1.in_features, encoder.projection.fc1.out_features) == (368, 368)
    assert encoder.projection.fc2.out_features == 16


@pytest.mark.parametrize("arch", ["mobilenetv3_small_100", "efficientnet_b0"])
def test_an_architecture_without_a_single_last_stage_is_refused_with_the_reason(arch: str) -> None:
    with pytest.raises(InslocError, match=f"{arch} has no single last stage between its stride-16 and stride-32 maps"):
        build_c4(arch, 8, 32, seed=0)


def test_an_architecture_without_maps_is_refused() -> None:
    with pytest.raises(InslocError, match=r"strides are|gives no feature maps"):
        build_c4("vit_tiny_patch16_224", 8, 32, seed=0)


def test_an_unknown_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="resnet18") as refusal:
        build_c4("resnet181", 8, 32, seed=0)
    assert "resnet18" in refusal.value.near
