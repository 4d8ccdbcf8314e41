"""What a network can't do is found out on zeros and said in words."""

import pytest
import torch

from insloc_eval.applies import Sides, fitted, need_input, need_last_stage, need_stride, sides_of
from insloc_eval.job import NotApplicable
from insloc_hub.models.create import create_model
from insloc_hub.models.extractor import Extractor, load


def vit(dynamic: bool) -> Extractor:
    """timm's own default is a fixed size."""
    model = create_model("random:vit_tiny_patch16_224", dynamic_img_size=dynamic, depth=1)
    return Extractor(model, "random:vit_tiny_patch16_224", torch.device("cpu"), "fp32")


def test_a_vit_made_for_one_size_takes_no_other_and_one_with_dynamic_sizes_does() -> None:
    need_input(vit(dynamic=False), 224)
    with pytest.raises(NotApplicable, match=r"vit_tiny_patch16_224 takes no input of 128 x 128 px: Input height"):
        need_input(vit(dynamic=False), 128)
    need_input(vit(dynamic=True), 128)


def test_a_vit_has_no_stride_32_and_no_last_stage(network: Extractor) -> None:
    with pytest.raises(NotApplicable, match=r"vit_tiny_patch16_224 has no map of stride 32; it has \[16\]"):
        need_stride(vit(dynamic=False), 32)
    with pytest.raises(NotApplicable, match="no single last stage"):
        need_last_stage(vit(dynamic=False))
    need_stride(network, 32)
    assert need_last_stage(network) is network.model.get_submodule("layer4")


@pytest.mark.parametrize(
    ("spec", "sides"),
    [("random:resnet18", Sides(least=1, multiple=1)), ("random:convnext_atto", Sides(least=32, multiple=1))],
)
def test_sides_that_a_cnn_takes(spec: str, sides: Sides) -> None:
    assert sides_of(load(spec, device="cpu"), [16, 32]) == sides


def test_a_vit_takes_whole_patches_only() -> None:
    assert sides_of(vit(dynamic=True), [16]) == Sides(least=16, multiple=16)


@pytest.mark.parametrize(
    ("least", "multiple", "wh", "larger"),
    [(32, 1, (10, 20), (32, 64)), (32, 1, (33, 32), (33, 32)), (32, 1, (40, 12), (107, 32)), (16, 16, (40, 55), (48, 64))],
)
def test_pictures_are_enlarged_with_their_aspect_or_to_whole_patches(
    least: int, multiple: int, wh: tuple[int, int], larger: tuple[int, int]
) -> None:
    pixels = torch.zeros(3, wh[1], wh[0], dtype=torch.uint8)
    result = fitted(pixels, Sides(least=least, multiple=multiple))
    assert result.shape == (3, larger[1], larger[0])
    assert (result is pixels) == (wh == larger)
