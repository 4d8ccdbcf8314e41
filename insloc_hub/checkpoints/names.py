"""Our names of tensors, and what a family of other names is.

Ours: timm's own for the trunk of a ResNet (conv1.weight ... layer4.2.bn3.bias); `neck.` and `head.` before the names of
the released InsLoc-FPN code for the pyramid and the box head (paper.md A.3, A.7). The projections to the contrast space
have no place in a detector and do not travel.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import timm
import torch

Encoder = Literal["query", "key"]
Part = Literal["trunk", "fpn", "head"]
Shape = tuple[int, ...]
Rows = tuple[tuple[str, str | None], ...]
"""(beginning or piece of our name, what stands there in theirs); None: their layout has no place for it."""

PARTS: tuple[Part, ...] = ("trunk", "fpn", "head")
ARCHS = ("resnet50", "resnet18", "resnet34", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d")
"""What timm and torchvision both call by this name, with the same tensors."""
COUNTER = "num_batches_tracked"  # of a BatchNorm; no output depends on it, and frozen norms do not have it
SECOND_FC = "head.shared_fcs.1."  # the released head has it, the detectors' heads do not (paper.md A.7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """What a network must be fed, as far as the layout tells. Means and deviations are of RGB in 0..1."""

    order: Literal["RGB", "BGR", "unknown"]
    mean_std: Literal["ImageNet", "BGR mean, std 1", "unknown"]
    stride_in: Literal["3x3", "1x1", "unknown"]
    """Which convolution of a bottleneck block carries the stride: names and shapes are equal for both."""
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One way to name the tensors of a ResNet, its pyramid and its box head."""

    name: str
    starts: Rows
    """Tried in order on the beginning of our name; the first that fits is replaced."""
    inside: Rows = ()
    """Then the first that occurs in the rest of the name."""
    twin: tuple[tuple[str, str], ...] = ()
    """Beginnings of the query encoder's names -> those of the key encoder (momentum twin); empty: no twin."""
    mark: str = ""
    """A regular expression that some name must match; "": none needed."""
    drops: tuple[tuple[str, str], ...] = ()
    """(regular expression that a whole name matches, rule): what such a file also holds and no trunk needs."""
    convention: Convention

    def spell(self, ours: str, encoder: Encoder = "query") -> str | None:
        """Their name of our tensor; None: no place for it in this layout."""
        theirs = _replace_start(ours, self.starts)
        if theirs is None:
            return None
        start, rest = theirs
        for piece, other in self.inside:
            if piece in rest:
                rest = rest.replace(piece, str(other), 1)
                break
        name = start + rest
        if encoder == "query":
            return name
        return next((b + name.removeprefix(a) for a, b in self.twin if name.startswith(a)), None)


SELF_SUPERVISED = Convention(
    order="RGB", mean_std="ImageNet", stride_in="3x3", why="this layout is written by one code base, which fixes them"
)
USUAL = Convention(
    order="RGB", mean_std="ImageNet", stride_in="3x3", why="usual for these names; the tensors themselves can't tell"
)


def _replace_start(name: str, rows: Rows) -> tuple[str, str] | None:
    for start, other in rows:
        if name.startswith(start):
            return None if other is None else (other, name.removeprefix(start))
    return None


@functools.cache
def trunk_shapes(arch: str) -> dict[str, Shape]:
    """Names and shapes of timm's headless ResNet."""
    with torch.device("meta"):
        model = timm.create_model(arch, num_classes=0)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@functools.cache
def all_shapes(arch: str) -> dict[str, Shape]:
    """Names and shapes of trunk, pyramid and box head (paper.md A.3)."""
    trunk = trunk_shapes(arch)
    shapes = dict(trunk)
    for i in range(4):
        width = max(shape[0] for name, shape in trunk.items() if shape and name.startswith(f"layer{i + 1}."))
        shapes |= _conv_bn(f"neck.lateral_convs.{i}", (256, width, 1, 1))
        shapes |= _conv_bn(f"neck.fpn_convs.{i}", (256, 256, 3, 3))
        shapes |= _conv_bn(f"head.shared_convs.{i}", (256, 256, 3, 3))
    for i, width in enumerate((256 * 7 * 7, 1024)):
        shapes |= {f"head.shared_fcs.{i}.weight": (1024, width), f"head.shared_fcs.{i}.bias": (1024,)}
    return shapes


def part_of(ours: str) -> Part:
    """Which part one of our names belongs to.

    >>> part_of("neck.fpn_convs.0.conv.weight"), part_of("layer1.0.conv1.weight")
    ('fpn', 'trunk')
    """
    return "fpn" if ours.startswith("neck.") else "head" if ours.startswith("head.") else "trunk"


def is_optional(ours: str) -> bool:
    """Whether a file may lack it and still be whole: counters, and the fc that only the released head has."""
    return ours.endswith(COUNTER) or ours.startswith(SECOND_FC)


@functools.cache
def spellings(layout: Layout, arch: str, encoder: Encoder) -> dict[str, str]:
    """Their name -> ours, for everything that the layout has a place for."""
    pairs = ((layout.spell(ours, encoder), ours) for ours in all_shapes(arch))
    return {theirs: ours for theirs, ours in pairs if theirs is not None}


def wrapper_of(names: Iterable[str]) -> str:
    """What DataParallel, torch.compile and the like put before every name; "" if nothing is before all of them.

    >>> wrapper_of(["module.a.weight", "module.b"]), wrapper_of(["module.a", "b"])
    ('module.', '')
    """
    listed = list(names)
    found = ""
    while True:
        more = next((w for w in ("module.", "_orig_mod.", "model.") if all(n.startswith(found + w) for n in listed)), "")
        if not more or not listed:
            return found
        found += more


def _conv_bn(name: str, shape: Shape) -> dict[str, Shape]:
    channels = (shape[0],)
    bn = {f"{name}.bn.{stat}": channels for stat in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.conv.weight": shape, **bn, f"{name}.bn.{COUNTER}": ()}
