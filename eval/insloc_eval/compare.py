"""Paired differences of two records: the same images, the same protocol, two models. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from insloc_eval.stats import ONE_SEED, Difference, difference
from insloc_eval.store import Judged, load, pick, record_path
from insloc_hub.errors import InslocError
from insloc_hub.records import Result


class NotComparable(InslocError):
    """Two records that answer different questions; the text gives the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """First minus second, metric by metric."""

    first: Result
    second: Result
    differences: dict[str, Difference]
    units: dict[str, str]


def compare_models(folder: Path, first: str, second: str) -> list[Comparison]:
    """Every pair of stored records of two models (names or ids) that can be compared. NotComparable: there is none."""
    found, reasons = [], []
    for a in pick(folder, first):
        for b in pick(folder, second):
            why = obstacle(a, b)
            if why:
                reasons.append(f"{a.protocol} {a.id} and {b.protocol} {b.id}: {why}")
            else:
                paths = [record_path(folder, r.task, r.id) for r in (a, b)]
                found.append(compare(load(paths[0]), load(paths[1])))
    if not found:
        raise NotComparable("not comparable: " + "; ".join(reasons))
    return found


def compare(first: Judged, second: Judged) -> Comparison:
    """The paired differences of two records. NotComparable: with the reason."""
    a, b = first.result, second.result
    why = obstacle(a, b)
    if why:
        raise NotComparable(f"{a.id} and {b.id} are not comparable: {why}")
    _, left, right = np.intersect1d(first.outcomes["keys"], second.outcomes["keys"], return_indices=True)
    shared = [name for name in a.metrics if name in b.metrics]
    return Comparison(
        first=a,
        second=b,
        differences={n: difference(first.outcomes[n][left][None], second.outcomes[n][right][None]) for n in shared},
        units={name: a.metrics[name].unit for name in shared},
    )


def obstacle(a: Result, b: Result) -> str:
    """Why two records can't be compared; empty where they can."""
    if a.id == b.id:
        return "they are one record: the same weights"
    for result in (a, b):
        if result.not_applicable:
            return f"{result.protocol} is not applicable to {result.model.spec} ({result.not_applicable})"
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


def verdict(name: str, difference: Difference, unit: str) -> str:
    """One metric's difference in words."""
    text = f"{name}: {difference.value:+.4f} {unit} [{difference.low:+.4f}, {difference.high:+.4f}], n {difference.n}: "
    if difference.shown:
        text += f"{'higher' if difference.value > 0 else 'lower'} on these images"
    else:
        text += "no difference shown"
    return text + f" (smallest detectable: {difference.smallest:.4f})"


def sentences(comparison: Comparison) -> list[str]:
    """The comparison as lines of text."""
    a, b = comparison.first, comparison.second
    lines = [f"{a.protocol} on {a.data.name}: {a.model.spec} ({a.id}) minus {b.model.spec} ({b.id})"]
    lines += [f"  {verdict(name, gap, comparison.units[name])}" for name, gap in comparison.differences.items()]
    return [*lines, f"  {ONE_SEED}"]
