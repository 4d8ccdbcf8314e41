"""What a model must beat before its number says anything: random weights of its architecture, and rows that never look.

Pure functions of finished records and their per-image outcomes.
"""

import numpy as np

from insloc_eval.protocols import Protocol
from insloc_eval.stats import difference
from insloc_eval.store import Judged

REACHABLE = "oracle"  # a reference row that nobody has to beat


def floor_notes(judged: Judged, protocol: Protocol, floors: list[Judged]) -> tuple[str, ...]:
    """Warnings where the primary number is within noise of its floor, or within the protocol's points of random weights.

    `floors`: what the random networks of the architecture reached; those of other protocols are passed over.
    """
    result = judged.result
    if protocol.primary not in result.metrics:
        return ()
    notes = [*_random_notes(judged, protocol, floors), *_blind_notes(judged, protocol)]
    return tuple(notes)


def _random_notes(judged: Judged, protocol: Protocol, floors: list[Judged]) -> list[str]:
    result, name = judged.result, protocol.primary
    same = [f for f in floors if f.result.protocol == result.protocol and name in f.result.metrics]
    if not same:
        return []
    best = max(same, key=lambda f: f.result.metrics[name].value)
    mine, theirs = result.metrics[name].value, best.result.metrics[name].value
    notes = []
    if protocol.floor_points is not None and mine <= theirs + protocol.floor_points:
        notes.append(
            f"WARNING: {name} {mine:.3f} is less than {100 * protocol.floor_points:g} points above {theirs:.3f}, what random "
            f"weights of {result.model.arch} reach: it shows nothing that the training did"
        )
    _, left, right = np.intersect1d(judged.outcomes["keys"], best.outcomes["keys"], return_indices=True)
    if len(left) > 1:
        gap = difference(judged.outcomes[name][left][None], best.outcomes[name][right][None])
        if gap.low <= 0:
            notes.append(
                f"UNINFORMATIVE: {name} is within noise of {best.result.model.spec}: {gap.value:+.3f} "
                f"[{gap.low:+.3f}, {gap.high:+.3f}] on the same images"
            )
    return notes


def _blind_notes(judged: Judged, protocol: Protocol) -> list[str]:
    """Where the interval reaches down to a row that needs no network."""
    result, name = judged.result, protocol.primary
    rows = {row: values[name] for row, values in result.rows.items() if row != REACHABLE and name in values}
    if not rows:
        return []
    row = max(rows, key=lambda key: rows[key])
    metric = result.metrics[name]
    if metric.low > rows[row]:
        return []
    return [
        f"UNINFORMATIVE: {name} {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}] is within noise of {rows[row]:.3f}, "
        f"the row '{row}' that never looks"
    ]
