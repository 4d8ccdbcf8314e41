"""The second opinion: a ResNet, pyramid and box head computed straight from a file's own names.

It shares no table and no name with the conversion, on purpose: a conversion checked with its own tables agrees with
itself whatever they say. Where things are is found from shapes and from the ends of names; the arithmetic is written
with functions. Tests hold it against torchvision's own modules.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from insloc_hub.shapes import Float

EPS = 1e-5  # of every BatchNorm here (torch's, detectron2's and mmdet's default)
PROBE_SIDE = 96
Weights = Mapping[str, Tensor]


def probe_image(side: int = PROBE_SIDE) -> Float[Tensor, "1 3 side side"]:
    """A fixed normalised picture: waves of another direction and length in each channel, an edge, a ramp.

    Channels differ, so that a swapped stem shows, and so do rows and columns.
    """
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    red = torch.sin(2 * torch.pi * (5 * x + 2 * y)) + (x > 0.6)
    green = torch.sin(2 * torch.pi * (x - 11 * y)) * (1 + y) - 0.3
    blue = torch.cos(2 * torch.pi * 17 * x * y) + 1.5 * y - x
    return torch.stack([red, green, blue])[None].float()


def probe_grid() -> Float[Tensor, "2 256 7 7"]:
    """A fixed input of the box head: what RoIAlign would give."""
    index = torch.arange(2 * 256 * 49).reshape(2, 256, 7, 7)
    return torch.sin(index * 0.7) + torch.cos(index * 0.013)


@torch.no_grad()
def activations(weights: Weights, encoder: str = "query", image: Tensor | None = None) -> dict[str, Tensor]:
    """Stage -> its output on the probe: stem, c2..c5; p2..p5 and fc1 (fc2) where the file has pyramid and head.

    `weights` are float tensors under the file's own names. KeyError, RuntimeError: it is no such network.
    """
    twin = encoder == "key"
    names = [name for name in weights if _is_twin(name) == twin]
    style = _find_style(weights, names)
    stages = _trunk(weights, style, probe_image() if image is None else image)
    stages |= _pyramid(weights, names, [stages[f"c{i}"] for i in range(2, 6)])
    return stages | _head(weights, names)


def _is_twin(name: str) -> bool:
    """Whether a name is of a momentum encoder: a part of it ends in _k or says momentum."""
    return any(step.endswith("_k") or "momentum" in step for step in name.split("."))


@dataclass(frozen=True, slots=True)
class _Style:
    """How this file speaks of a ResNet; `stage(s)` is the beginning of the names of stage 1..4."""

    stem_conv: str
    stem_norm: str
    stages: tuple[str, ...]
    norm: str
    """A block's norm, `{}` for the number of its conv."""
    shortcut: tuple[str, str]


def _find_style(weights: Weights, names: list[str]) -> _Style:
    """From the stem: the only convolution of 7 x 7 on three channels (a second one is the same encoder again)."""
    stem = next(n for n in names if weights[n].ndim == 4 and tuple(weights[n].shape[1:]) == (3, 7, 7))
    if stem.endswith("stem.conv1.weight"):
        before = stem.removesuffix("stem.conv1.weight")
        stages = tuple(_stage(names, before, f"res{i}.") for i in range(2, 6))
        return _Style(
            stem.removesuffix(".weight"), f"{before}stem.conv1.norm", stages, "conv{}.norm", ("shortcut", "shortcut.norm")
        )
    if stem.endswith("conv1.weight"):
        before = stem.removesuffix("conv1.weight")
        stages = tuple(_stage(names, before, f"layer{i}.") for i in range(1, 5))
        return _Style(f"{before}conv1", f"{before}bn1", stages, "bn{}", ("downsample.0", "downsample.1"))
    before = stem.removesuffix("0.weight")  # a sequence: conv, norm, ReLU, pool, four stages
    stages = tuple(f"{before}{i}." for i in range(4, 8))
    return _Style(f"{before}0", f"{before}1", stages, "bn{}", ("downsample.0", "downsample.1"))


def _stage(names: list[str], before: str, stage: str) -> str:
    """Where a stage's names begin: beside the stem, or elsewhere (a C4 model has its last stage in the head)."""
    if any(name.startswith(f"{before}{stage}") for name in names):
        return f"{before}{stage}"
    first = next(name for name in names if name.endswith(f".{stage}0.conv1.weight"))
    return first.removesuffix("0.conv1.weight")


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    stats = (weights[f"{name}.running_mean"], weights[f"{name}.running_var"])
    return F.batch_norm(x, *stats, weights[f"{name}.weight"], weights[f"{name}.bias"], False, 0.0, EPS)


def _conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Padded to keep the size; groups follow from the channels."""
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1] // weight.shape[1])


def _trunk(weights: Weights, style: _Style, image: Tensor) -> dict[str, Tensor]:
    x = F.relu(_norm(_conv(image, weights[f"{style.stem_conv}.weight"], 2), weights, style.stem_norm))
    found = {"stem": x}
    x = F.max_pool2d(x, 3, 2, 1)
    for number, stage in enumerate(style.stages):
        for index, block in _blocks(weights, stage):
            x = _block(x, weights, style, block, 2 if number > 0 and index == 0 else 1)
        found[f"c{number + 2}"] = x
    return found


def _blocks(weights: Weights, stage: str) -> Iterator[tuple[int, str]]:
    index = 0
    while f"{stage}{index}.conv1.weight" in weights:
        yield index, f"{stage}{index}."
        index += 1


def _block(x: Tensor, weights: Weights, style: _Style, block: str, stride: int) -> Tensor:
    """A residual block, basic or bottleneck; the stride sits in the first 3 x 3."""
    convs = [n for n in (1, 2, 3) if f"{block}conv{n}.weight" in weights]
    y = x
    for n in convs:
        weight = weights[f"{block}conv{n}.weight"]
        y = _conv(y, weight, stride if weight.shape[-1] == 3 and (n == 1 or len(convs) == 3) else 1)
        y = _norm(y, weights, block + style.norm.format(n))
        y = F.relu(y) if n != convs[-1] else y
    conv, norm = (block + name for name in style.shortcut)
    if f"{conv}.weight" in weights:
        x = _norm(_conv(x, weights[f"{conv}.weight"], stride), weights, norm)
    return F.relu(x + y)


# How the three families end the names of lateral and output convs, with their norms; {} is the level from 0, + from 2.
_NECKS = (
    ("lateral_convs.{}.conv", "lateral_convs.{}.bn", "fpn_convs.{}.conv", "fpn_convs.{}.bn", 0),
    ("inner_blocks.{}.0", "inner_blocks.{}.1", "layer_blocks.{}.0", "layer_blocks.{}.1", 0),
    ("fpn_lateral{}", "fpn_lateral{}.norm", "fpn_output{}", "fpn_output{}.norm", 2),
)
# Convs, norms, first number, fcs.
_HEADS = (
    ("shared_convs.{}.conv", "shared_convs.{}.bn", 0, ("shared_fcs.0", "shared_fcs.1")),
    ("box_head.{}.0", "box_head.{}.1", 0, ("box_head.5",)),
    ("box_head.conv{}", "box_head.conv{}.norm", 1, ("box_head.fc1", "shared_fcs.1")),
    ("head.conv{}", "head.bn{}", 1, ("head.fc1",)),
)


def _whole(names: list[str], ending: str) -> str:
    """The name that ends so, without `.weight`; "" if none does."""
    full = f"{ending}.weight"
    found = next((name for name in names if name == full or name.endswith(f".{full}")), "")
    return found.removesuffix(".weight")


def _pyramid(weights: Weights, names: list[str], maps: list[Tensor]) -> dict[str, Tensor]:
    """Lateral 1 x 1 + norm, top-down sum by nearest upsampling, 3 x 3 + norm; no activation."""
    for lateral, lateral_norm, out, out_norm, first in _NECKS:
        if not _whole(names, lateral_norm.format(first)):
            continue
        found: dict[str, Tensor] = {}
        above: Tensor | None = None
        for i in (3, 2, 1, 0):
            at = {key: _whole(names, text.format(i + first)) for key, text in (("l", lateral), ("o", out))}
            norms = [_whole(names, text.format(i + first)) for text in (lateral_norm, out_norm)]
            x = _norm(_conv(maps[i], weights[f"{at['l']}.weight"]), weights, norms[0])
            above = x if above is None else x + F.interpolate(above, size=x.shape[-2:], mode="nearest")
            found[f"p{i + 2}"] = _norm(_conv(above, weights[f"{at['o']}.weight"]), weights, norms[1])
        return dict(sorted(found.items()))
    return {}


def _head(weights: Weights, names: list[str]) -> dict[str, Tensor]:
    """Four times 3 x 3 + norm + ReLU, then fully connected layers with ReLU, on the fixed grid."""
    for conv, norm, first, fcs in _HEADS:
        if not _whole(names, norm.format(first)):
            continue
        x = probe_grid()
        for i in range(first, first + 4):
            x = F.relu(
                _norm(_conv(x, weights[f"{_whole(names, conv.format(i))}.weight"]), weights, _whole(names, norm.format(i)))
            )
        x = x.flatten(1)
        found = {}
        for number, fc in enumerate(_whole(names, name) for name in fcs):
            if fc and weights[f"{fc}.weight"].shape[1] == x.shape[1]:
                x = F.relu(F.linear(x, weights[f"{fc}.weight"], weights[f"{fc}.bias"]))
                found[f"fc{number + 1}"] = x
        return found
    return {}
