"""Recipe -> encoder, the whole-image encoder and the classifier."""

import dataclasses
from collections.abc import Callable

import pytest
import timm
import torch

from insloc_hub.encoders.build import build_classifier, build_encoder
from insloc_hub.encoders.c4 import C4Encoder
from insloc_hub.encoders.fpn import FPNEncoder
from insloc_hub.encoders.whole import WholeEncoder
from insloc_hub.recipe import Recipe

Tiny = Callable[..., Recipe]
LEVELS = {"c4": 1, "fpn": 4, "whole": 1}


def recipe_of(tiny: Tiny, variant: str, **changes: object) -> Recipe:
    levels = LEVELS[variant]
    return tiny(variant=variant, augment_levels=(False,) * levels, level_weights=(1.0,) * levels, **changes)


@pytest.mark.parametrize(("variant", "kind"), [("c4", C4Encoder), ("fpn", FPNEncoder), ("whole", WholeEncoder)])
def test_a_variant_names_its_encoder_and_its_numbers_are_the_recipes_alone(tiny: Tiny, variant: str, kind: type) -> None:
    torch.manual_seed(5)
    one = build_encoder(recipe_of(tiny, variant))
    torch.manual_seed(6)
    before = torch.get_rng_state()
    two, other = build_encoder(recipe_of(tiny, variant)), build_encoder(recipe_of(tiny, variant, seed=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert type(one) is kind and one.training
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())
    for name in ("trunk.layer4.0.conv1.weight", "projection.weight" if variant == "fpn" else "projection.fc1.weight"):
        assert not torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_a_given_trunk_takes_the_place_of_the_random_one(tiny: Tiny) -> None:
    trunk = timm.create_model("resnet10t", num_classes=0)
    assert build_encoder(tiny(), trunk).trunk is trunk and build_classifier(tiny(), 3, trunk).trunk is trunk


@pytest.mark.parametrize("arch", ["resnet10t", "mobilenetv3_small_050"])
def test_the_whole_encoder_is_the_mean_of_the_last_map_projected(tiny: Tiny, arch: str) -> None:
    encoder = build_encoder(recipe_of(tiny, "whole", arch=arch)).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.zeros(2, 1, 4)
    with torch.no_grad():
        last = encoder.trunk.forward_intermediates(x, intermediates_only=True)[-1]
        raw = encoder.projection(last.flatten(2).mean(dim=2))
        out = encoder(x, boxes)
        assert torch.equal(out, encoder(x, boxes + 9))  # boxes are not read
    assert torch.allclose(out[:, 0], raw / raw.norm(dim=1, keepdim=True), atol=1e-5)


def test_the_classifier_reads_the_same_mean(tiny: Tiny) -> None:
    classifier = build_classifier(tiny(), 7).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last = classifier.trunk.forward_features(x).mean(dim=(2, 3))
        assert torch.allclose(
            classifier(x, torch.zeros(2, 1, 4)), last @ classifier.fc.weight.T + classifier.fc.bias, atol=1e-5
        )


def test_the_recipe_s_arch_is_the_trunk(tiny: Tiny) -> None:
    encoder = build_encoder(dataclasses.replace(tiny(), arch="regnetx_002"))
    assert type(encoder.trunk).__name__ == "RegNet"
