"""Networks of a run: transformers take any size, the random ones are two where their norms can start at zero."""

import pytest
import torch

from insloc_eval.networks import floor_networks, load_network
from insloc_hub.models.extractor import load


def test_a_vit_takes_any_size_and_is_the_same_network_at_its_own() -> None:
    plain = load("random:vit_tiny_patch16_224", device="cpu")
    ours = load_network("random:vit_tiny_patch16_224", "cpu", "fp32")
    assert ours.sha256 == plain.sha256
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    first, second = (one.forward(images, [16], pooled=False).maps[16] for one in (plain, ours))
    assert torch.allclose(first, second, atol=1e-5)
    assert ours.forward(images[..., :128, :96], [16], pooled=False).maps[16].shape == (1, 192, 8, 6)


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("resnet18", ["random:resnet18", "random:resnet18 (ordinary norms)"]),
        ("convnext_atto", ["random:convnext_atto"]),
        ("test_vit", ["random:test_vit"]),
    ],
)
def test_the_arm_with_ordinary_norms_exists_only_where_timm_starts_some_at_zero(arch: str, names: list[str]) -> None:
    networks = dict(floor_networks(arch, "cpu", "fp32"))
    assert list(networks) == names
    assert len({one.sha256 for one in networks.values()}) == len(names)
