"""A sound network raises no suspicion; each sign of damage is named; what is known of the input is said, with its source."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from insloc_hub.checkpoints.families import detectron2, mmdet, torchvision
from insloc_hub.checkpoints.layouts import recognise
from insloc_hub.checkpoints.read import Checkpoint
from insloc_hub.checkpoints.suspicions import cannot_know, convention_of, suspicions

Tensors = dict[str, Tensor]
AsFile = Callable[..., Checkpoint]


def test_a_sound_network_raises_none(small: Tensors, sound: Callable[..., Tensors]) -> None:
    assert suspicions(small, {"c5": torch.ones(2)}) == ()
    assert suspicions(sound("resnet18", 2, ("trunk", "fpn", "head")), {}) == ()


def initial(tensors: Tensors, stage: str) -> Tensors:
    norms = [n.removesuffix(".running_var") for n in tensors if n.startswith(stage) and n.endswith(".running_var")]
    start = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    return tensors | {
        f"{n}.{stat}": torch.full_like(tensors[f"{n}.{stat}"], value) for n in norms for stat, value in start.items()
    }


def folded(tensors: Tensors) -> Tensors:
    return {
        n: torch.zeros_like(t)
        if n.endswith("running_mean")
        else torch.full_like(t, 1 - 1e-5)
        if n.endswith("running_var")
        else t
        for n, t in tensors.items()
    }


def put(tensors: Tensors, name: str, change: Callable[[Tensor], Tensor]) -> Tensors:
    return tensors | {name: change(tensors[name].clone())}


def with_nan(tensor: Tensor) -> Tensor:
    tensor[0] = float("nan")
    return tensor


SIGNS: list[tuple[str, Callable[[Tensors], Tensors], str]] = [
    ("a stage never trained", lambda t: initial(t, "layer3."), "layer3: every BatchNorm is at its initial value"),
    ("the stem never trained", lambda t: initial(t, "bn1."), "stem: every BatchNorm is at its initial value"),
    ("NaN", lambda t: put(t, "layer2.0.bn1.bias", with_nan), "layer2.0.bn1.bias: 1 values are not finite"),
    ("variance", lambda t: put(t, "bn1.running_var", lambda x: -x), "bn1.running_var: a variance is negative"),
    ("zeros", lambda t: put(t, "layer4.1.conv2.weight", torch.zeros_like), "layer4.1.conv2.weight: all zeros"),
    (
        "a block twice",
        lambda t: t | {"layer1.1.conv2.weight": t["layer1.0.conv1.weight"]},
        "layer1.1.conv2.weight: the same values as layer1.0.conv1.weight",
    ),
    ("Caffe", folded, "trunk: the statistics of all norms are folded"),
]


@pytest.mark.parametrize(("change", "said"), [row[1:] for row in SIGNS], ids=[row[0] for row in SIGNS])
def test_each_sign_is_named(small: Tensors, change: Callable[[Tensors], Tensors], said: str) -> None:
    found = suspicions(change(small), {})
    assert len(found) == 1 and found[0].startswith(said)


def test_a_fresh_network_is_said_to_be_one() -> None:
    import timm

    found = suspicions(timm.create_model("resnet18", num_classes=0).state_dict(), {})
    assert [line.split(":")[0] for line in found] == ["stem", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    ("output", "said"), [(torch.zeros(3), "c3: its output .* is zero"), (torch.tensor([float("inf")]), "c3: .* not finite")]
)
def test_a_dead_or_exploding_stage_is_named_once(small: Tensors, output: Tensor, said: str) -> None:
    (found,) = suspicions(small, {"c2": torch.ones(1), "c3": output, "c4": output})
    assert pytest.importorskip("re").match(said, found)


@pytest.mark.parametrize(
    ("layout", "facts", "order", "stride", "why"),
    [
        (detectron2.FPN, {}, "unknown", "unknown", "names are equal"),
        (detectron2.FPN, {"author": "Ceyuan"}, "RGB", "3x3", "the authors of InsLoc wrote this file"),
        (detectron2.BARE, {"author": "insloc_hub"}, "RGB", "3x3", "insloc_hub wrote this file"),
        (mmdet.FPN, {"config": "backbone=dict(style='caffe')"}, "BGR", "1x1", "style='caffe'"),
        (mmdet.FPN, {"config": 'style="pytorch"'}, "RGB", "3x3", "style='pytorch'"),
        (mmdet.FPN, {"config": "lr=0.1"}, "unknown", "unknown", "have the same names"),
        (torchvision.BARE, {}, "RGB", "3x3", "can't tell"),
    ],
)
def test_the_input_is_told_with_its_source(
    small: Tensors,
    spell: Callable[..., Tensors],
    as_file: AsFile,
    layout: object,
    facts: dict[str, str],
    order: str,
    stride: str,
    why: str,
) -> None:
    file = as_file(spell(small, layout), **facts)
    fed = convention_of(file, recognise("f", file.tensors))
    assert (fed.order, fed.stride_in) == (order, stride) and why in fed.why
    unsure = any("channel order" in line for line in cannot_know(fed, file))
    assert unsure == (order == "unknown" or "can't tell" in why)


def test_a_folder_says_its_mean_and_std_itself(small: Tensors, as_file: AsFile) -> None:
    for mean, said in ([0.485, 0.456, 0.406], "ImageNet"), ([0.5, 0.5, 0.5], "unknown"):
        config = json.dumps({"pretrained_cfg": {"mean": mean, "std": [0.229, 0.224, 0.225]}})
        file = as_file(small, form="folder", config=config)
        assert convention_of(file, recognise("f", small)).mean_std == said
    broken = as_file(small, form="folder", config="{")
    assert convention_of(broken, recognise("f", small)).why.startswith("usual")
