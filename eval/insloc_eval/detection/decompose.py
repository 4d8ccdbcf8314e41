"""A published-style gain of an FPN detector, split: what the trunk, the neck, the head and the extra norm each add.

The published comparisons let one arm have all four (paper.md A.7); here every step changes one thing. Torch-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from insloc_eval.detection.arms import blind, differences, seeds_note, verdict
from insloc_eval.protocols.detection import GAINS
from insloc_eval.store import Judged, load, pick, record_path
from insloc_hub.errors import InslocError
from insloc_hub.records import Result

STEPS = ("trunk", "neck", "head", "norm")
SHOWN = ("AP", "AP50", "mask_AP")


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One difference of two arms."""

    name: str
    first: tuple[Judged, ...]
    second: tuple[Judged, ...]


def steps(folder: Path, first: str, second: str) -> list[Step]:
    """trunk, neck, head, norm, and all together; `second` is the arm without any of them. InslocError: an arm is missing."""
    mine = [_arm(folder, first, parts, norm) for parts, norm in GAINS]
    without = _arm(folder, second, *GAINS[0])
    for arm in (*mine, without):
        if why := _other(arm[0].result, mine[0][0].result):
            raise InslocError(f"the arms can't be split: {why} differ between {arm[0].result.id} and {mine[0][0].result.id}")
    before = [without, *mine[:-1]]
    found = [Step(name=name, first=a, second=b) for name, a, b in zip(STEPS, mine, before, strict=True)]
    return [*found, Step(name="all four", first=mine[-1], second=without)]


def lines(found: Sequence[Step]) -> list[str]:
    """The split as text: each step's AP, and what it could have shown."""
    one, other = found[0].first[0].result, found[0].second[0].result
    text = [f"{one.protocol} on {one.data.name}: {one.model.spec} against {other.model.spec}, thing by thing"]
    for step in found:
        gaps, alone = differences(step.first, step.second)
        for name in (name for name in SHOWN if name in gaps):
            text.append(f"  {step.name + ',':9} {verdict(name, gaps[name], blind(alone))}")
    return [*text, "  " + seeds_note([j.result for j in found[0].first], [j.result for j in found[0].second])]


def _arm(folder: Path, names: str, parts: str, norm: bool) -> tuple[Judged, ...]:
    hits = [
        one
        for one in pick(folder, names)
        if one.settings.get("variant") == "fpn" and (one.settings["init_parts"], one.settings["extra_norm"]) == (parts, norm)
    ]
    if not hits:
        raise InslocError(
            f"{names} has no FPN record with --init-parts {parts} and the extra norm {'on' if norm else 'off'}; make them all "
            "with: insloc-eval run --decompose"
        )
    if len({(one.protocol, one.model.arch, one.data.fingerprint) for one in hits}) > 1:
        raise InslocError(f"{names} has records of several protocols or data; name those of one by their ids")
    return tuple(load(record_path(folder, one.task, one.id)) for one in hits)


def _other(a: Result, b: Result) -> str:
    """What differs besides the four."""
    split = {"init_parts", "extra_norm"}
    names = [n for n in sorted({*a.settings, *b.settings} - split) if a.settings.get(n) != b.settings.get(n)]
    names += ["the images"] if a.data.fingerprint != b.data.fingerprint else []
    names += ["the architectures"] if a.model.arch != b.model.arch else []
    return ", ".join(names)
