"""Bodies against the plain timm model: the same maps, nothing left over that no gradient reaches."""

import copy

import pytest
import timm
import torch
from torch import nn

from insloc_eval.detection.network.body import PYRAMID_STRIDES, PyramidBody, Stride16Body
from insloc_eval.detection.network.heads import LastStage
from insloc_hub.encoders.backbone import feature_maps
from insloc_hub.errors import InslocError


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_the_pyramid_has_a_map_a_stride_and_p6_is_every_second_cell_of_p5(trunk: nn.Module) -> None:
    body = PyramidBody(copy.deepcopy(trunk), "resnet10t").eval()
    with torch.no_grad():
        maps = body(pixels())
    assert {name: (64 // one.shape[2], 96 // one.shape[3]) for name, one in maps.items()} == {
        name: (s, s if name != "pool" else 48) for name, s in PYRAMID_STRIDES.items()
    }
    assert torch.equal(maps["pool"], maps["3"][:, :, ::2, ::2]) and maps["0"].shape[1] == body.out_channels == 256


def test_a_stride_16_body_and_its_stage_are_the_trunk_cut_in_two(trunk: nn.Module) -> None:
    whole = copy.deepcopy(trunk).eval()
    body = Stride16Body(copy.deepcopy(trunk), "resnet10t").eval()
    stage = body.stage[0].eval()
    with torch.no_grad():
        wanted = feature_maps(whole, pixels(), [16, 32])
        found = body(pixels())["0"]
        head = LastStage(stage, body.stage_channels, extra_norm=False).eval()
        assert torch.equal(found, wanted[16]) and torch.equal(head.grid(found), wanted[32])
        assert torch.equal(head(found), wanted[32].mean(dim=(2, 3)))
    kept, moved = list(body.state_dict()), list(stage.state_dict())
    assert not any("layer4" in name for name in kept) and len(kept) + len(moved) == len(whole.state_dict())


@pytest.mark.parametrize("arch", ["mobilenetv3_small_050", "regnetx_002"])
def test_every_parameter_of_a_pyramid_is_reached_by_its_gradient(arch: str) -> None:
    body = PyramidBody(timm.create_model(arch, num_classes=0), arch)
    sum(one.square().mean() for one in body(pixels()).values()).backward()
    assert [name for name, p in body.named_parameters() if p.grad is None] == []


def test_a_network_without_the_strides_is_refused_by_name() -> None:
    with pytest.raises(InslocError, match="vit_tiny_patch16_224 has no map of stride 4, so no FPN detector"):
        PyramidBody(timm.create_model("vit_tiny_patch16_224", num_classes=0), "vit_tiny_patch16_224")
