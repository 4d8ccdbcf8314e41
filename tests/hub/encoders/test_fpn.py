"""The FPN encoder against a slow version: torchvision's pyramid, one box and one level at a time; any CNN."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, roi_align

from insloc_hub.encoders.backbone import build_trunk, feature_maps, map_channels
from insloc_hub.encoders.fpn import FPNEncoder
from insloc_hub.errors import InslocError

STRIDES = (4, 8, 16, 32)
BOXES = torch.tensor([[8.0, 4, 80, 50], [-13.0, 20, 50, 74], [40.0, 30, 96, 64]], dtype=torch.float64)


def images(seed: int = 0) -> Tensor:
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def boxes_per_level() -> Tensor:
    """[3 4 4], another box on each level."""
    return torch.stack([BOXES + 3 * level for level in range(4)], dim=1)


def make(arch: str) -> FPNEncoder:
    torch.manual_seed(0)
    return FPNEncoder(build_trunk(arch, 0), arch, 32).double()


def slow_embeddings(encoder: FPNEncoder, x: Tensor, boxes: Tensor) -> Tensor:
    widths = map_channels(encoder.trunk)
    theirs = (
        FeaturePyramidNetwork([widths[s] for s in STRIDES], 256, norm_layer=nn.BatchNorm2d).double().train(encoder.training)
    )
    parts = [*encoder.neck.lateral_convs, *encoder.neck.fpn_convs]
    for ours, block in zip(parts, [*theirs.inner_blocks, *theirs.layer_blocks], strict=True):
        block[0].load_state_dict(ours.conv.state_dict())
        block[1].load_state_dict(ours.bn.state_dict())
    found = feature_maps(encoder.trunk, x, STRIDES)
    pyramid = list(theirs({str(s): found[s] for s in STRIDES}).values())
    rows = []
    for image in range(len(x)):  # image-major, then level
        for level, stride in enumerate(STRIDES):
            one = pyramid[level][image : image + 1]
            rows.append(
                roi_align(one, [boxes[image, level][None]], 7, spatial_scale=1 / stride, sampling_ratio=-1, aligned=True)
            )
    y = torch.cat(rows)
    for part in encoder.head.shared_convs:
        y = part.bn(nn.functional.conv2d(y, part.conv.weight, padding=1)).clamp(min=0)
    y = y.reshape(len(y), -1)
    for fc in encoder.head.shared_fcs:
        y = (y @ fc.weight.T + fc.bias).clamp(min=0)
    y = y @ encoder.projection.weight.T + encoder.projection.bias
    return (y / y.norm(dim=1, keepdim=True)).view(len(x), 4, -1)


@pytest.mark.parametrize(
    ("arch", "training"),
    [
        ("resnet10t", False),
        ("resnet10t", True),
        ("convnext_atto", False),
        ("mobilenetv3_small_050", True),
        ("regnetx_002", True),
    ],
)
def test_embeddings_equal_the_slow_version(arch: str, training: bool) -> None:
    encoder = make(arch).train(training)
    with torch.no_grad():
        ours = encoder(images(), boxes_per_level())
        slow = slow_embeddings(encoder, images(), boxes_per_level())
    assert ours.shape == (3, 4, 32)
    assert (ours - slow).abs().max() < 1e-10
    assert (ours[:, 0] - ours[:, 3]).abs().max() > 1e-3 and (ours[0] - ours[1]).abs().max() > 1e-3


def test_the_box_of_a_level_changes_that_level_alone_out_of_training() -> None:
    encoder = make("resnet10t").eval()
    other = boxes_per_level()
    other[:, 3] += 7
    with torch.no_grad():
        gap = (encoder(images(), boxes_per_level()) - encoder(images(), other)).abs().amax(dim=(0, 2))
    assert gap[:3].max() < 1e-12 and gap[3] > 1e-4


def test_sides_that_no_stride_divides_are_taken() -> None:
    encoder = make("resnet10t").eval()
    with torch.no_grad():
        out = encoder(images()[:, :, :50, :70], boxes_per_level())
    assert out.shape == (3, 4, 32) and out.isfinite().all()


def test_the_start_is_the_released_one() -> None:
    """paper.md A.3: Xavier in the neck and the fcs, Kaiming (fan out) in the head's convs, N(0, 0.01) at the end."""
    torch.manual_seed(0)
    encoder = FPNEncoder(timm.create_model("resnet10t", num_classes=0), "resnet10t", 128).requires_grad_(False)
    lateral = encoder.neck.lateral_convs[0].conv.weight  # 64 -> 256, 1x1
    assert lateral.abs().max() <= (6 / (64 + 256)) ** 0.5 and lateral.std() == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.05)
    assert encoder.head.shared_convs[0].conv.weight.std() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    fc = encoder.head.shared_fcs[0].weight
    assert fc.abs().max() <= (6 / (12544 + 1024)) ** 0.5 and fc.std() == pytest.approx((2 / (12544 + 1024)) ** 0.5, rel=0.02)
    assert encoder.projection.weight.std() == pytest.approx(0.01, rel=0.05)
    assert all((layer.bias == 0).all() for layer in [*encoder.head.shared_fcs, encoder.projection])
    assert encoder.neck.lateral_convs[0].conv.bias is None


def test_an_architecture_without_the_four_strides_is_refused_with_those_it_has() -> None:
    with pytest.raises(InslocError, match=r"needs 4, 8, 16, 32, and vit_tiny_patch16_224 has 16"):
        FPNEncoder(timm.create_model("vit_tiny_patch16_224"), "vit_tiny_patch16_224", 8)
