"""Differences of two arms: one or several models each, the same protocol, the same images. Torch-free.

An arm is what was asked for: a model's name, a pattern, or ids. Several models of an arm must be pretraining seeds of one
recipe, as far as their records say; anything else is refused with the reason, never averaged.
"""

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insloc_eval.detection import arms
from insloc_eval.protocols import PROTOCOLS
from insloc_eval.stats import ONE_SEED, Difference, difference, over_seeds, share
from insloc_eval.store import Judged, load, pick, record_path
from insloc_hub.errors import InslocError
from insloc_hub.records import Metric, Result


class NotComparable(InslocError):
    """Records that answer different questions; the text gives the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """First arm minus second, metric by metric."""

    first: tuple[Result, ...]
    """One record for each pretraining seed."""
    second: tuple[Result, ...]
    differences: dict[str, Difference]
    alone: dict[str, tuple[Metric, Metric]]
    """The two arms' own means on the shared images."""
    units: dict[str, str]

    @property
    def protocol(self) -> str:
        """Family/name@version."""
        return self.first[0].protocol


def compare_models(folder: Path, first: str, second: str) -> list[Comparison]:
    """Every question that both arms answered, compared. `first`, `second`: see store.pick. NotComparable: there is none."""
    found, reasons = [], []
    arms_a, arms_b = _by_question(pick(folder, first)), _by_question(pick(folder, second))
    for question, a in arms_a.items():
        if question not in arms_b:
            continue
        try:
            found.append(compare(*(tuple(_load(folder, result) for result in arm) for arm in (a, arms_b[question]))))
        except NotComparable as error:
            reasons.append(str(error))
    if not found:
        pairs = [(a[0], b[0]) for a in arms_a.values() for b in arms_b.values()]
        reasons = reasons or [f"{a.protocol} {a.id} and {b.protocol} {b.id}: {obstacle(a, b)}" for a, b in pairs]
        raise NotComparable("not comparable: " + "; ".join(reasons))
    return found


def compare(first: tuple[Judged, ...], second: tuple[Judged, ...]) -> Comparison:
    """The differences of two arms on the images that all their models could read. NotComparable: with the reason."""
    a, b = (tuple(judged.result for judged in arm) for arm in (first, second))
    for one in (*a[1:], *b):
        if why := obstacle(a[0], one):
            raise NotComparable(f"{a[0].id} and {one.id} are not comparable: {why}")
    for arm in (a, b):
        if why := not_one_arm(arm):
            raise NotComparable(f"{', '.join(result.id for result in arm)} are no arm: {why}")
    if {result.id for result in a} & {result.id for result in b}:
        raise NotComparable("they share one record: the same weights can't be in both arms")
    if a[0].settings:
        gaps, means = arms.differences(first, second)
        units = {name: a[0].metrics[name].unit for name in gaps}
        return Comparison(first=a, second=b, differences=gaps, alone=means, units=units)
    keys = reduce(np.intersect1d, [judged.outcomes["keys"] for judged in (*first, *second)])
    differences, alone = {}, {}
    for name in (name for name in a[0].metrics if all(name in result.metrics for result in (*a, *b))):
        values = [np.stack([_values(judged, name, keys) for judged in arm]) for arm in (first, second)]
        counted = ~np.isnan(np.concatenate(values)).any(axis=0)
        x, y = (one[:, counted] for one in values)
        differences[name] = difference(x, y)
        alone[name] = (_alone(x, a[0].metrics[name]), _alone(y, a[0].metrics[name]))
    units = {name: a[0].metrics[name].unit for name in differences}
    return Comparison(first=a, second=b, differences=differences, alone=alone, units=units)


def obstacle(a: Result, b: Result) -> str:
    """Why two records can't be compared; empty where they can."""
    if a.id == b.id:
        return "they are one record: the same weights"
    for result in (a, b):
        if result.not_applicable:
            return f"{result.protocol} is not applicable to {result.model.spec} ({result.not_applicable})"
    if a.settings and b.settings:  # detectors: their seeds are replicates, and what differs is named
        return arms.what_differs(a, b)
    if a.protocol != b.protocol:
        return f"the protocols differ, {a.protocol} and {b.protocol}"
    if a.protocol_hash != b.protocol_hash:
        return (
            f"the numbers of {a.protocol} differ (hash {a.protocol_hash[:8]} and {b.protocol_hash[:8]}), or the precision does"
        )
    if (a.data.fingerprint, a.data.split) != (b.data.fingerprint, b.data.split):
        return f"the images differ, {a.data.name} ({a.data.n}) and {b.data.name} ({b.data.n})"
    if a.eval_seed != b.eval_seed:
        return f"the evaluation seeds differ, {a.eval_seed} and {b.eval_seed}"
    return ""


def not_one_arm(arm: tuple[Result, ...]) -> str:
    """Why several models are no seeds of one recipe; empty where they can be."""
    for what, values in (
        ("architecture", {result.model.arch for result in arm}),
        ("recipe", {result.model.recipe for result in arm}),
    ):
        if len(values) > 1:
            return f"they are of more than one {what} ({', '.join(sorted(value or 'unknown' for value in values))})"
    if arm[0].settings:
        tuned = [(result.model.sha256, result.eval_seed) for result in arm]
        return "" if len(set(tuned)) == len(tuned) else "two of them are the same weights and fine-tuning seed"
    seeds = [result.pretrain_seed for result in arm if result.pretrain_seed is not None]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return f"more than one of them has pretraining seed {twice[0]}; name one by the start of its id" if twice else ""


def verdict(name: str, difference: Difference, unit: str) -> str:
    """One metric's difference in words."""
    a, b = difference.seeds
    seeds = "1 seed an arm" if (a, b) == (1, 1) else f"{a} and {b} seeds"
    interval = f"[{difference.low:+.4f}, {difference.high:+.4f}]"
    text = f"{name}: {difference.value:+.4f} {unit} {interval}, {difference.n} images, {seeds}: "
    if difference.shown:
        text += "higher" if difference.value > 0 else "lower"
        text += " on these images" if min(a, b) == 1 else ""
    else:
        text += "no difference shown"
    return text + f" (smallest detectable: {difference.smallest:.4f})"


def sentences(comparison: Comparison) -> list[str]:
    """The comparison as lines of text."""
    a, b = (_named(arm) for arm in (comparison.first, comparison.second))
    lines = [f"{comparison.protocol} on {comparison.first[0].data.name}: {a} minus {b}"]
    detectors, blind = bool(comparison.first[0].settings), arms.blind(comparison.alone)
    for name, gap in comparison.differences.items():
        said = arms.verdict(name, gap, blind) if detectors else verdict(name, gap, comparison.units[name])
        lines.append(f"  {said}")
        lines.append("    " + " and ".join(f"{m.value:.4f} [{m.low:.4f}, {m.high:.4f}]" for m in comparison.alone[name]))
    return [*lines, *(f"  {text}" for text in disagreements(comparison)), f"  {seeds_note(comparison)}"]


def disagreements(comparison: Comparison) -> list[str]:
    """Where features that answer one question put the two arms in opposite orders: a sentence for each question."""
    asked = {protocol.title: protocol.same_question for protocol in PROTOCOLS}
    texts = []
    for names in asked.get(comparison.protocol, ()):
        gaps = {name: comparison.differences[name].value for name in names if name in comparison.differences}
        above, below = ([n for n, gap in gaps.items() if sign * gap > 0] for sign in (1, -1))
        if above and below:
            a, b = " and ".join(above), " and ".join(below)
            texts.append(f"the sign differs between features: the first is higher by {a}, lower by {b}")
    return texts


def seeds_note(comparison: Comparison) -> str:
    """What the intervals cover."""
    if comparison.first[0].settings:
        return arms.seeds_note(comparison.first, comparison.second)
    counts = len(comparison.first), len(comparison.second)
    if min(counts) == 1:
        return ONE_SEED
    text = (
        f"{counts[0]} and {counts[1]} pretraining seeds: the intervals cover the choice of seeds (unpaired) and of test images"
    )
    unknown = [r.model.spec for r in (*comparison.first, *comparison.second) if r.pretrain_seed is None]
    return text + (f". Taken as seeds of one recipe, though no record says so: {', '.join(unknown)}" if unknown else ".")


def _by_question(results: list[Result]) -> dict[tuple[str, str, str, str, int], list[Result]]:
    """Records by what they answer: those of one group can stand in one comparison."""
    groups: dict[tuple[str, str, str, str, int], list[Result]] = {}
    for r in sorted(results, key=lambda r: (r.protocol, r.pretrain_seed or 0, r.id)):
        seed = 0 if r.settings else r.eval_seed  # a detector's seeds are replicates
        question = (r.protocol, r.protocol_hash, r.data.fingerprint, r.data.split, seed)
        groups.setdefault(question, []).append(r)
    return groups


def _load(folder: Path, result: Result) -> Judged:
    return load(record_path(folder, result.task, result.id))


def _values(judged: Judged, name: str, keys: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Outcomes of the images `keys`, which are sorted, in their order."""
    _, _, at = np.intersect1d(keys, judged.outcomes["keys"], return_indices=True)
    values: npt.NDArray[np.float64] = judged.outcomes[name][at].astype(np.float64)
    return values


def _alone(values: npt.NDArray[np.float64], known: Metric) -> Metric:
    """An arm's own mean; a share of one seed has Wilson's interval."""
    one = len(values) == 1 and known.unit == "share" and bool(np.isin(values, (0, 1)).all())
    return share(values[0]) if one else over_seeds(values, known.unit)


def _named(arm: tuple[Result, ...]) -> str:
    names = [f"{result.model.spec} ({result.id})" for result in arm]
    return names[0] if len(arm) == 1 else f"{len(arm)} models [{', '.join(names)}]"
