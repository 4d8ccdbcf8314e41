"""Our names are timm's and the released code's; a layout is one spelling of them, both ways."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from insloc_hub.checkpoints.layouts import LAYOUTS
from insloc_hub.checkpoints.names import ARCHS, Layout, all_shapes, part_of, spellings, trunk_shapes, wrapper_of
from insloc_hub.encoders.fpn import BoxHead, Neck

Rows = list[dict[str, str]]


@pytest.mark.parametrize("arch", ARCHS)
def test_trunk_names_and_shapes_are_those_of_timm_and_of_torchvision(arch: str) -> None:
    with torch.device("meta"):
        models = timm.create_model(arch, num_classes=0), getattr(torchvision.models, arch)()
    wanted, theirs = ({n: tuple(t.shape) for n, t in m.state_dict().items() if not n.startswith("fc.")} for m in models)
    assert trunk_shapes(arch) == wanted == theirs


def test_neck_and_head_are_the_released_ones_but_for_the_prefix_of_the_head(empty: Callable[[str], dict[str, Tensor]]) -> None:
    released = {n: tuple(t.shape) for n, t in empty("insloc_fpn_state_dict").items()}
    for name, shape in all_shapes("resnet50").items():
        if part_of(name) != "trunk":
            assert released[name.replace("head.", "roi_head.bbox_head.")] == shape
    assert sum(part_of(name) == "fpn" for name in all_shapes("resnet50")) == 48
    assert sum(part_of(name) == "head" for name in all_shapes("resnet50")) == 28


@pytest.mark.parametrize(("arch", "widths"), [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))])
def test_neck_and_head_are_those_of_our_own_encoder(arch: str, widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        parts = {"neck.": Neck(widths), "head.": BoxHead()}
    found = {f"{before}{n}": tuple(t.shape) for before, part in parts.items() for n, t in part.state_dict().items()}
    assert found == {n: shape for n, shape in all_shapes(arch).items() if part_of(n) != "trunk"}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("arch", ["resnet18", "resnet101"])
def test_no_two_of_our_names_are_spelled_alike(layout: Layout, arch: str) -> None:
    for encoder in ("query", "key") if layout.twin else ("query",):
        named = [name for name in all_shapes(arch) if layout.spell(name, encoder) is not None]
        assert set(trunk_shapes(arch)) <= set(named)
        assert len(spellings(layout, arch, encoder)) == len(named)
    assert layout.twin or layout.spell("conv1.weight", "key") is None


def test_a_wrapper_is_what_stands_before_every_name() -> None:
    assert wrapper_of([]) == ""
    assert wrapper_of(["module.a", "module.model.b"]) == "module."
    assert wrapper_of(["module.model.a", "module.model.b"]) == "module.model."
    assert wrapper_of(["_orig_mod.a"]) == "_orig_mod."
    assert wrapper_of(["modules.a"]) == ""
