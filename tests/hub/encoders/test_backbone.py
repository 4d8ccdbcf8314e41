"""Maps of timm models by stride, from the plain model, against timm's own wrapper."""

import pytest
import timm
import torch
from torch import nn

from insloc_hub.encoders.backbone import (
    build_trunk,
    feature_maps,
    last_stage_name,
    map_channels,
    map_strides,
    new_timm_model,
    ordinary_norms,
)
from insloc_hub.errors import InslocError, UnknownName

X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
ARCHS = ["resnet18", "regnetx_002", "convnext_atto", "mobilenetv3_small_050"]


def plain(arch: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(arch, num_classes=0).eval()


@pytest.mark.parametrize("arch", ARCHS)
def test_maps_equal_those_of_timms_features_only_wrapper(arch: str) -> None:
    model = plain(arch)
    torch.manual_seed(0)
    wrapper = timm.create_model(arch, features_only=True).eval()
    # The wrapper renames parameters in some families, so they are matched by order.
    names = [name for name in model.state_dict() if not name.startswith(("conv_head", "head", "norm_head"))]
    wrapper.load_state_dict(dict(zip(wrapper.state_dict(), (model.state_dict()[name] for name in names), strict=True)))
    with torch.no_grad():
        theirs = dict(zip(wrapper.feature_info.reduction(), wrapper(X), strict=True))
        ours = feature_maps(model, X, [4, 8, 16, 32])
    assert list(ours) == [4, 8, 16, 32]
    for stride, one in ours.items():
        assert torch.allclose(one, theirs[stride], atol=1e-5), stride
        assert tuple(one.shape) == (2, map_channels(model)[stride], 64 // stride, 96 // stride)


def test_stages_after_the_last_asked_one_are_not_run() -> None:
    model = plain("resnet18")
    ran = []
    model.layer3.register_forward_hook(lambda *_: ran.append("layer3"))
    model.layer4.register_forward_hook(lambda *_: ran.append("layer4"))
    feature_maps(model, X, [16, 4])
    assert ran == ["layer3"]


def test_a_stride_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(InslocError, match=r"no map of stride 64; this model has \[2, 4, 8, 16, 32\]"):
        feature_maps(plain("resnet18"), X, [16, 64])


def test_a_module_without_maps_is_refused() -> None:
    with pytest.raises(InslocError, match="Linear gives no feature maps"):
        map_strides(nn.Linear(2, 2))


@pytest.mark.parametrize(("arch", "name"), [("resnet18", "layer4"), ("regnetx_002", "s4"), ("convnext_atto", "stages.3")])
def test_the_last_stage_is_found_and_the_model_left_as_it_was(arch: str, name: str) -> None:
    model = plain(arch).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert last_stage_name(model, arch) == name
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_trunk_starts_with_ordinary_norms_unlike_timms() -> None:
    assert plain("resnet18").layer1[0].bn2.weight.abs().max() == 0
    trunk = build_trunk("resnet18", 0)
    norms = [part for part in trunk.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all((part.weight == 1).all() and (part.bias == 0).all() for part in norms)
    layer_norm = nn.LayerNorm(3)
    nn.init.zeros_(layer_norm.weight)
    ordinary_norms(layer_norm)
    assert (layer_norm.weight == 0).all()  # BatchNorms only


def test_names_with_a_tag_mean_the_architecture_and_unknown_ones_are_refused() -> None:
    assert new_timm_model("resnet18.a1_in1k", num_classes=0).num_features == 512
    with pytest.raises(UnknownName) as refusal:
        new_timm_model("resnet5O", num_classes=0)
    assert "resnet50" in refusal.value.near
