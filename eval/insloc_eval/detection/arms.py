"""Arms of detectors: what two of them differ in, and the difference of their AP on the same images. Torch-free."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from insloc_eval.detection.scores import matches_of, sampled_values
from insloc_eval.set_metrics import Sampled, set_difference, set_metric
from insloc_eval.stats import Difference
from insloc_eval.store import Judged
from insloc_hub.records import Metric, Result

BLIND_AP50 = 5.0  # points: where both arms stay below, they have not learnt to detect, and a difference says nothing

TOPICS: dict[str, tuple[str, ...]] = {
    "head": ("variant", "mask"),
    "norm": ("extra_norm", "norm_decay", "precise_bn_batches"),
    "initialised parts": ("init_parts",),
    "schedule": ("steps", "batch", "lr", "lr_drops", "momentum", "weight_decay", "warmup_steps", "warmup_start", "scaled"),
    "data": ("train_share", "mosaic", "train_short_px", "test_short_px", "longest_px", "flip"),
}
"""What must be equal in two arms -> the protocol's numbers that it is made of; all others are `protocol`."""


def what_differs(a: Result, b: Result) -> str:
    """Everything that makes two records of detectors no comparison, each named; empty where they can be compared."""
    found: dict[str, list[str]] = {}
    for name in sorted({*a.settings, *b.settings}):
        left, right = (_plain(one.settings.get(name)) for one in (a, b))
        if left != right:
            found.setdefault(_topic(name), []).append(f"{name} {left} and {right}")
    if (a.data.fingerprint, a.data.split) != (b.data.fingerprint, b.data.split):
        found.setdefault("data", []).insert(0, f"{a.data.name} ({a.data.n}) and {b.data.name} ({b.data.n})")
    if not found and a.protocol_hash != b.protocol_hash:
        found["precision"] = [f"{a.env.get('precision')} and {b.env.get('precision')}"]
    return "; ".join(f"the {topic} {_verb(topic)} ({', '.join(rows)})" for topic, rows in found.items())


def differences(
    first: Sequence[Judged], second: Sequence[Judged]
) -> tuple[dict[str, Difference], dict[str, tuple[Metric, Metric]]]:
    """By metric: first minus second, and the two arms alone; an arm's seeds are its `_units`."""
    images = len(first[0].outcomes["keys"])
    a, b = (_units(arm) for arm in (first, second))
    names = [name for name in first[0].result.metrics if all(name in one for one in (*a, *b))]
    units = {name: first[0].result.metrics[name].unit for name in names}
    gaps = {name: set_difference([one[name] for one in a], [one[name] for one in b], images) for name in names}
    alone = {
        name: (
            set_metric([one[name] for one in a], images, units[name]),
            set_metric([one[name] for one in b], images, units[name]),
        )
        for name in names
    }
    return gaps, alone


def blind(alone: dict[str, tuple[Metric, Metric]]) -> bool:
    """Whether neither arm detects."""
    return "AP50" in alone and max(one.value for one in alone["AP50"]) < BLIND_AP50


def verdict(name: str, gap: Difference, no_verdict: bool) -> str:
    """One metric's difference in words, what it could have shown first."""
    a, b = gap.seeds
    seeds = "1 seed an arm" if (a, b) == (1, 1) else f"{a} and {b} seeds"
    if gap.smallest == 0:  # both arms at 0 in every sample of the images: no spread to judge by
        return f"{name}: every sample of the {gap.n} images gives {gap.value:+.2f} points: no interval, no verdict"
    text = f"{name}: smallest detectable {gap.smallest:.2f} points ({gap.n} images, {seeds}); measured {gap.value:+.2f} "
    text += f"[{gap.low:+.2f}, {gap.high:+.2f}]: "
    if no_verdict:
        return text + f"no verdict, both arms stay under AP50 {BLIND_AP50:g}"
    if not gap.shown:
        return text + "no difference shown"
    return text + ("higher" if gap.value > 0 else "lower") + (" on these images" if min(a, b) == 1 else "")


def seeds_note(first: Sequence[Result], second: Sequence[Result]) -> str:
    """What the intervals cover."""
    counts = len(first), len(second)
    if min(counts) == 1:
        return "One fine-tuning an arm: the intervals cover the choice of test images only; another seed can differ by more."
    networks = [len({one.model.sha256 for one in arm}) for arm in (first, second)]
    several = max(networks) > 1 and tuple(networks) != counts  # some network was fine-tuned more than once
    text = f"{counts[0]} and {counts[1]} fine-tunings"
    text += f" of {networks[0]} and {networks[1]} networks (of several, the mean of each is one seed)" if several else ""
    text += ": the intervals cover their seeds (unpaired) and the test images"
    if any(len({one.pretrain_seed for one in arm}) < 2 for arm in (first, second)):
        return text + ", not another pretraining" + (" of an arm with one network." if several else ".")
    return text + ", and the pretraining seeds" + ("." if several else ", of which each fine-tuning has its own.")


def _units(arm: Sequence[Judged]) -> list[dict[str, Sampled]]:
    """What is drawn anew in another run of the arm: its networks, each the mean of its fine-tunings; of one, these."""
    networks: dict[str, list[dict[str, Sampled]]] = {}
    for one in arm:
        networks.setdefault(one.result.model.sha256, []).append(_sampled(one))
    tuned = list(networks.values())
    # fine-tunings of one network share its pretraining: counted singly they would make its seed look better known
    return tuned[0] if len(tuned) == 1 else [_mean(group) for group in tuned]


def _mean(group: list[dict[str, Sampled]]) -> dict[str, Sampled]:
    names = [name for name in group[0] if all(name in one for one in group)]
    return {
        name: Sampled(
            whole=float(np.mean([one[name].whole for one in group])),
            drawn=np.mean([one[name].drawn for one in group], axis=0),
        )
        for name in names
    }


def _sampled(judged: Judged) -> dict[str, Sampled]:
    return sampled_values(matches_of(judged.outcomes, judged.result.id), len(judged.outcomes["keys"]))


def _topic(name: str) -> str:
    return next((topic for topic, names in TOPICS.items() if name in names), "protocol")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _verb(topic: str) -> str:
    return "differ" if topic in ("initialised parts", "data") else "differs"
