"""Random corruptions of a sound network: where a second source exists all are caught and named; clean files raise nothing.

The kinds are those of the field's accidents: blocks of one shape in each other's place, stages mixed up, transposes, signs,
scales of norms, the momentum twin, a half-loaded network, a stem for BGR. The full numbers run under `slow`, on an
InsLoc-FPN with a ResNet-50; three of each kind on a ResNet-18 stand in the fast tests.
"""

import collections
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from insloc_hub.checkpoints.families import detectron2, insloc, mmdet, moco, torchvision, trainers
from insloc_hub.checkpoints.layouts import OURS
from insloc_hub.checkpoints.names import COUNTER
from insloc_hub.checkpoints.read import Checkpoint
from insloc_hub.checkpoints.verify import Loaded, judge, load, verify_one

Tensors = dict[str, Tensor]
Random = torch.Generator


def draw(random: Random, choices: list[str]) -> str:
    return choices[int(torch.randint(len(choices), (1,), generator=random))]


def weights(tensors: Tensors) -> list[str]:
    return [name for name, tensor in tensors.items() if tensor.ndim >= 2]


def swapped(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    """Two tensors of one shape in each other's place."""
    a = draw(random, [n for n in weights(t) if sum(t[m].shape == t[n].shape for m in weights(t)) > 1])
    b = draw(random, [n for n in weights(t) if n != a and t[n].shape == t[a].shape])
    return {a: t[b], b: t[a]}


def blocks(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    """A block of a stage over another one of the stage."""
    stage = draw(random, ["layer1", "layer2", "layer3", "layer4"])
    names = [n for n in t if n.startswith(f"{stage}.0.") and not n.endswith(COUNTER)]
    other = [n for n in names if t.get(n.replace(".0.", ".1.", 1), torch.zeros(0)).shape == t[n].shape]
    return {n.replace(".0.", ".1.", 1): t[n] for n in other}


def transposed(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    name = draw(random, [n for n in weights(t) if t[n].shape[0] == t[n].shape[1]])
    return {name: t[name].transpose(0, 1)}


def turned(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    name = draw(random, [n for n in weights(t) if t[n].ndim == 4 and t[n].shape[2] > 1])
    return {name: t[name].transpose(2, 3)}


def negated(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    name = draw(random, weights(t))
    return {name: -t[name]}


def scaled(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    name = draw(random, [n for n in t if t[n].ndim == 1 and n.endswith((".weight", ".running_var"))])
    return {name: t[name] * (1.05 if torch.rand((), generator=random) < 0.5 else 0.95)}


def of_the_twin(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    """One stage of the key encoder."""
    start = draw(random, ["conv1.", "layer1.", "layer2.", "layer3.", "layer4."])
    return {n: twin[n] for n in t if n.startswith(start) and not n.endswith(COUNTER)}


def half_loaded(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    """A stage left as it was before loading."""
    start = draw(random, ["layer1.", "layer2.", "layer3.", "layer4."])
    fresh = {}
    for n in (n for n in t if n.startswith(start) and not n.endswith(COUNTER)):
        if t[n].ndim == 1:
            fresh[n] = torch.full_like(t[n], 1.0 if n.endswith((".weight", "running_var")) else 0.0)
        else:
            fresh[n] = torch.randn(t[n].shape, generator=random) * 0.02
    return fresh


def bgr(random: Random, t: Tensors, twin: Tensors) -> Tensors:
    return {"conv1.weight": t["conv1.weight"].flip(1)}


KINDS: dict[Callable[[Random, Tensors, Tensors], Tensors], str] = {
    swapped: "in another tensor's place",
    blocks: "in another tensor's place",
    transposed: "transposed (output and input channels)",
    turned: "transposed (rows and columns)",
    negated: "of the opposite sign",
    scaled: "scaled by one factor",
    of_the_twin: "of the other encoder (momentum twin)",
    half_loaded: "at their initial value",
    bgr: "with red and blue swapped (BGR)",
}


def corrupt_and_judge(source: Loaded, ours: Tensors, twin: Tensors, number: int) -> dict[str, list[bool]]:
    """Kind -> for each corruption whether the activations alone show it; each is refused and named, or it fails."""
    random = torch.Generator().manual_seed(7)
    kinds = list(KINDS)
    seen: dict[str, list[bool]] = collections.defaultdict(list)
    for i in range(number):
        mutate = kinds[i % len(kinds)]
        changed = mutate(random, ours, twin)
        verdict = judge(source, load(Checkpoint(path="b", form="torch", tensors={**ours, **changed})))
        assert not verdict.agrees, (mutate.__name__, list(changed))
        named = {name: kind for kind, names in verdict.differences.items() for name in names}
        assert named.keys() == changed.keys(), (mutate.__name__, named)
        assert KINDS[mutate] in named.values(), (mutate.__name__, named)
        seen[mutate.__name__].append(not all(row.agrees for row in verdict.agreements))
    return seen


def test_each_kind_of_corruption_is_caught_and_named(
    small: Tensors, sound: Callable[..., Tensors], spell: Callable[..., Tensors]
) -> None:
    twin = sound("resnet18", 6)
    source = load(Checkpoint(path="a", form="torch", tensors=spell(small, moco.MOCO, "module.", twin)))
    seen = corrupt_and_judge(source, small, twin, 27)
    assert seen.keys() == {kind.__name__ for kind in KINDS}
    assert all(all(shown) for shown in seen.values())  # by the activations alone


@pytest.mark.slow
def test_five_hundred_corruptions_of_a_resnet50_with_pyramid_and_head_are_caught(
    sound: Callable[..., Tensors], spell: Callable[..., Tensors]
) -> None:
    parts = ("trunk", "fpn", "head")
    ours, twin = sound("resnet50", 1, parts), sound("resnet50", 2, parts)
    source = load(Checkpoint(path="a", form="torch", tensors=spell(ours, insloc.FPN, "", twin)))
    seen = corrupt_and_judge(source, ours, twin, 500)
    assert sum(len(shown) for shown in seen.values()) == 500
    assert all(all(shown) for shown in seen.values()), {kind: shown.count(False) for kind, shown in seen.items()}


CLEAN = [OURS, torchvision.BARE, detectron2.BARE, detectron2.C4, detectron2.FPN, mmdet.FPN, mmdet.C4, insloc.FPN, insloc.C4]
CLEAN += [moco.MOCO, moco.DENSECL, moco.SOCO, trainers.SOLO, trainers.LIGHTLY, trainers.VISSL, torchvision.DETECTOR]


def no_alarm(sound: Callable[..., Tensors], spell: Callable[..., Tensors], seed: int, arch: str) -> None:
    layout = CLEAN[seed % len(CLEAN)]
    # Some layouts are only told from others by their pyramid or their twin.
    whole = layout.spell("neck.fpn_convs.0.conv.weight") is not None and (seed % 3 == 0 or (layout.mark and not layout.twin))
    ours = sound(arch, seed, ("trunk", "fpn", "head") if whole else ("trunk",))
    twin = sound(arch, 1000 + seed) if layout.twin else {}
    tensors = spell(ours, layout, "module." if seed % 2 else "", twin)
    verdict = verify_one(Checkpoint(path="clean", form="torch", tensors=tensors))
    assert verdict.agrees and not verdict.files[0].recognised.unknown, (seed, layout.name)
    assert verdict.suspicions == (), (seed, layout.name)


@pytest.mark.parametrize("seed", range(len(CLEAN)))
def test_a_clean_file_of_each_layout_raises_no_alarm(
    sound: Callable[..., Tensors], spell: Callable[..., Tensors], seed: int
) -> None:
    no_alarm(sound, spell, seed, "resnet18")


@pytest.mark.slow
def test_two_hundred_clean_files_raise_no_alarm(sound: Callable[..., Tensors], spell: Callable[..., Tensors]) -> None:
    for seed in range(200):
        no_alarm(sound, spell, seed, ("resnet18", "resnet34", "resnet50")[seed % 3])


def test_without_a_second_source_a_half_load_and_a_copied_block_are_named(small: Tensors) -> None:
    for mutate, words in ((half_loaded, "every BatchNorm is at its initial value"), (blocks, "the same values as")):
        changed = mutate(torch.Generator().manual_seed(3), small, {})
        verdict = verify_one(Checkpoint(path="b", form="torch", tensors={**small, **changed}))
        assert verdict.agrees and any(words in line for line in verdict.suspicions)
