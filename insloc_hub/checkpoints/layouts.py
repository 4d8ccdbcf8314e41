"""Which layout a file has: told from names and shapes alone, never from the file's name.

A layout fits if the whole trunk of an architecture is there under its names. A file that is only partly there is refused
with the nearest layout and what is missing; whatever is left over is dropped by a named rule, or listed as unknown.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from insloc_hub.checkpoints.families import detectron2, insloc, mmdet, moco, torchvision, trainers
from insloc_hub.checkpoints.names import (
    ARCHS,
    PARTS,
    USUAL,
    Encoder,
    Layout,
    Part,
    Shape,
    all_shapes,
    is_optional,
    part_of,
    spellings,
    wrapper_of,
)
from insloc_hub.errors import BadCheckpoint

OURS = Layout(
    name="timm with InsLoc's FPN parts",
    starts=(("", ""),),
    mark=r"neck\.lateral_convs\.",
    drops=(torchvision.CLASSIFIER,),
    convention=USUAL,
)
LAYOUTS: tuple[Layout, ...] = (
    insloc.FPN,
    insloc.C4,
    moco.DENSECL,
    moco.MOCO,
    moco.SOCO,
    trainers.SOLO,
    trainers.SOLO_OLD,
    trainers.LIGHTLY,
    trainers.VISSL,
    trainers.VISSL_TRUNK,
    torchvision.DETECTOR,
    detectron2.FPN,
    detectron2.C4,
    detectron2.BARE,
    mmdet.C4,
    mmdet.FPN,
    OURS,
    torchvision.BARE,
)
"""In order of trial: layouts that hold more than another's names come before it."""
KNOWN = "Known are ResNets of timm, torchvision, detectron2, mmdet, InsLoc, MoCo, DenseCL, SoCo, VISSL, solo-learn and lightly"
SIDES: tuple[Encoder, Encoder] = ("query", "key")
OTHER_KIND = "neck or box head of another kind"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """What the names of a file mean: each of them is used, dropped by a rule, or unknown."""

    layout: Layout
    arch: str
    encoder: Encoder
    used: Mapping[str, str]
    """Our name -> the file's."""
    parts: tuple[Part, ...]
    dropped: Mapping[str, tuple[str, ...]]
    """Rule -> the file's names."""
    unknown: tuple[str, ...]
    absent: tuple[str, ...]
    """Our names of what such a file may lack and this one does: counters, the head's second fc."""

    def count(self, part: Part) -> tuple[int, int]:
        """Tensors of `part` used, and how many the architecture has of them."""
        has = sum(part_of(ours) == part for ours in self.used)
        return has, has + sum(part_of(ours) == part for ours in self.absent)


def recognise(path: object, tensors: Mapping[str, Tensor], encoder: Encoder = "query") -> Recognised:
    """The first layout whose trunk is wholly there. BadCheckpoint: none, a part of one, other shapes, no such encoder."""
    wrapper = wrapper_of(tensors)
    shapes = {name.removeprefix(wrapper): tuple(tensor.shape) for name, tensor in tensors.items()}
    candidates = [layout for layout in (*LAYOUTS, *_other_prefix(shapes)) if _marked(layout, shapes)]
    # Query encoders first: one layout's query has the name of another's key encoder.
    whole = ((side, layout, _fitting_arch(path, layout, shapes, side)) for side in SIDES for layout in candidates)
    side, layout, arch = next((row for row in whole if row[2]), (encoder, None, None))
    if layout is None or arch is None:
        raise BadCheckpoint(path, _nearest(shapes))
    if encoder == "key" and not layout.twin:
        raise BadCheckpoint(path, f"layout {layout.name} has one encoder, so there is no key encoder to take")
    if _missing(layout, arch, encoder, shapes):
        raise BadCheckpoint(path, f"layout {layout.name}, but its {encoder} encoder is not whole; say --encoder {side}")
    _no_further_blocks(path, layout, arch, encoder, shapes)
    return _account(path, layout, arch, encoder, shapes, wrapper)


def _marked(layout: Layout, names: Iterable[str]) -> bool:
    return not layout.mark or any(re.match(layout.mark, name) for name in names)


def _missing(layout: Layout, arch: str, encoder: Encoder, names: Mapping[str, Shape]) -> bool:
    """Whether a tensor of the trunk is not there."""
    wanted = _trunk_names(layout, arch, encoder)
    return not wanted or not wanted <= names.keys()


@functools.cache
def _trunk_names(layout: Layout, arch: str, encoder: Encoder) -> frozenset[str]:
    """Their names of the tensors without which there is no trunk."""
    return frozenset(theirs for theirs, ours in spellings(layout, arch, encoder).items() if _needed(ours, "trunk"))


def _needed(ours: str, part: Part) -> bool:
    return part_of(ours) == part and not is_optional(ours)


def _fitting_arch(path: object, layout: Layout, shapes: Mapping[str, Shape], encoder: Encoder) -> str | None:
    """The architecture whose trunk is there, the deepest one. BadCheckpoint: right names, but no known shapes."""
    # Spelling every name of every architecture takes a second, and nearly all layouts fail at once.
    if any(layout.spell(name, encoder) not in shapes for name in ("conv1.weight", "layer4.1.conv2.weight")):
        return None
    whole = [arch for arch in ARCHS if not _missing(layout, arch, encoder, shapes)]
    if not whole:
        return None
    deepest = max(len(all_shapes(arch)) for arch in whole)
    wrong = ""
    for arch in (arch for arch in whole if len(all_shapes(arch)) == deepest):
        wanted = all_shapes(arch)
        table = {n: wanted[ours] for n, ours in spellings(layout, arch, encoder).items() if part_of(ours) == "trunk"}
        bad = next((name for name, shape in table.items() if shapes.get(name, shape) != shape), None)
        if bad is None:
            return arch
        wrong = wrong or f"{bad} is {_times(shapes[bad])}, where a {arch} has {_times(table[bad])}"
    raise BadCheckpoint(path, f"names of layout {layout.name}, but not the shapes: {wrong}. There are {', '.join(ARCHS)}")


def _no_further_blocks(path: object, layout: Layout, arch: str, encoder: Encoder, names: Iterable[str]) -> None:
    """BadCheckpoint: the stages have more blocks than this architecture, so it is a part of a deeper one."""
    table = spellings(layout, arch, encoder)
    firsts = [str(layout.spell(f"layer{i}.0.conv1.weight", encoder)).removesuffix("0.conv1.weight") for i in range(1, 5)]
    further = next((name for name in names if name.startswith(tuple(firsts)) and name not in table), None)
    if further:
        raise BadCheckpoint(
            path,
            f"layout {layout.name} with the blocks of a {arch} and more ({further}): a part of a deeper network, or one "
            f"that is not known. {KNOWN}",
        )


def _account(
    path: object, layout: Layout, arch: str, encoder: Encoder, shapes: Mapping[str, Shape], wrapper: str
) -> Recognised:
    table = spellings(layout, arch, encoder)
    parts = tuple(part for part in PARTS if _has_part(path, layout, arch, table, shapes, part))
    used = {ours: wrapper + name for name, ours in table.items() if name in shapes and part_of(ours) in parts}
    dropped: dict[str, list[str]] = {}
    unknown = []
    for name in shapes:
        if wrapper + name in used.values():
            continue
        rule = next((rule for pattern, rule in layout.drops if re.fullmatch(pattern, name)), None)
        if rule is None:
            unknown.append(wrapper + name)
        else:
            dropped.setdefault(rule, []).append(wrapper + name)
    held = set(table.values())
    return Recognised(
        layout=layout,
        arch=arch,
        encoder=encoder,
        used={ours: used[ours] for ours in all_shapes(arch) if ours in used},
        parts=parts,
        dropped={rule: tuple(names) for rule, names in dropped.items()},
        unknown=tuple(unknown),
        absent=tuple(n for n in all_shapes(arch) if n in held and n not in used and part_of(n) in parts),
    )


def _has_part(
    path: object, layout: Layout, arch: str, table: Mapping[str, str], shapes: Mapping[str, Shape], part: Part
) -> bool:
    """Whether a part is there. BadCheckpoint: half of it is, and nothing says that it is of another kind."""
    names = {name: ours for name, ours in table.items() if _needed(ours, part)}
    there = {name: ours for name, ours in names.items() if name in shapes}
    if not there:
        return False
    right = all(shapes[name] == all_shapes(arch)[ours] for name, ours in there.items())
    if len(there) == len(names) and right:
        return True
    rule = next((pattern for pattern, rule in layout.drops if rule == OTHER_KIND), None)
    normed = any(ours.endswith("running_mean") for ours in there.values())
    strangers = rule and any(re.fullmatch(rule, name) and name not in table for name in shapes)
    if rule and (strangers or not normed or not right):
        return False
    missing = sorted(names.keys() - there.keys())
    problem = (
        f"{len(missing)} of {len(names)} tensors of its {part} are missing, e.g. {missing[0]}" if missing else "shapes differ"
    )
    raise BadCheckpoint(path, f"layout {layout.name}, but {problem}; cut short or edited. Nothing of it is taken")


def _other_prefix(names: Mapping[str, Shape]) -> tuple[Layout, ...]:
    """torchvision's names under one prefix that no table knows; several such prefixes (student, teacher) are a choice."""
    stems = [n.removesuffix("conv1.weight") for n, s in names.items() if n.endswith(".conv1.weight") and s[1:] == (3, 7, 7)]
    if len(stems) != 1:
        return ()
    starts = (("neck.", None), ("head.", None), ("", stems[0]))
    return (Layout(name=f"torchvision's names after {stems[0]!r}", starts=starts, convention=USUAL),)


def _nearest(shapes: Mapping[str, Shape]) -> str:
    """The sentence for names that no layout has: which one comes nearest, and what it lacks."""
    best: tuple[float, Layout, str, list[str]] | None = None
    for layout in LAYOUTS:
        for arch in ARCHS:
            wanted = _trunk_names(layout, arch, "query")
            missing = sorted(wanted - shapes.keys())
            share = 1 - len(missing) / max(len(wanted), 1)
            if share > 0 and (best is None or share > best[0]):
                best = (share, layout, arch, missing)
    if best is None:
        some = ", ".join(list(shapes)[:3])
        return f"{len(shapes)} tensors, none of a known layout (e.g. {some}). {KNOWN}"
    _, layout, arch, missing = best
    if not missing:  # whole, but without the layout's mark: another name of the same tensors would have fitted before
        return f"names like those of {layout.name}, but ambiguous. {KNOWN}"
    return (
        f"no known layout is whole in it. The nearest is {layout.name} with a {arch}, of which {len(missing)} trunk tensors "
        f"are missing, e.g. {missing[0]}. {KNOWN}"
    )


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"
