"""Matches -> the numbers of a record: AP in points (0..100), by size, by threshold, by class, with samples of them. Torch-free.

The same names for both metrics: which one it is stands in the protocol, and in the matches' rule.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from insloc_eval.detection.precision import Matches, average_precision, from_arrays, mean_precision, names_of
from insloc_eval.set_metrics import Sampled, samples
from insloc_hub.errors import BadData
from insloc_hub.shapes import Float

UNIT = "points"
AT_50, AT_75 = 0, 5  # places among the thresholds .50, .55, ..

Wanted = dict[str, tuple[str, int | None]]


def _of(prefix: str, kind: str) -> Wanted:
    sizes = {"s": "small", "m": "medium", "l": "large"}
    whole: Wanted = {"AP": (f"{kind}:all", None), "AP50": (f"{kind}:all", AT_50), "AP75": (f"{kind}:all", AT_75)}
    whole |= {f"AP{letter}": (f"{kind}:{size}", None) for letter, size in sizes.items()}
    return {prefix + name: place for name, place in whole.items()}


METRICS: Wanted = {
    **_of("", "bbox"),
    "AP_unrounded": ("bbox:unrounded", None),  # voc, without detectron2's rounding of boxes and scores to text
    **_of("mask_", "segm"),
}
"""Metric -> which matches, and which threshold; None: the mean over them."""


def numbers(matches: Mapping[str, Matches], counts: npt.NDArray[np.int64] | None = None) -> dict[str, Float[np.ndarray, " r"]]:
    """Every metric that the matches give, on each resample (see precision.average_precision); NaN where there is none."""
    tables = {name: average_precision(one, counts) for name, one in matches.items()}
    found = {}
    for name, (place, threshold) in METRICS.items():
        if place in tables:
            table = tables[place]
            found[name] = 100 * mean_precision(table if threshold is None else table[:, threshold : threshold + 1])
    return found


def values(matches: Mapping[str, Matches]) -> dict[str, float]:
    """Every metric on all images; those that no object is asked for are left out."""
    return {name: float(row[0]) for name, row in numbers(matches).items() if not np.isnan(row[0])}


def sampled_values(matches: Mapping[str, Matches], images: int) -> dict[str, Sampled]:
    """The same with their values on samples of the images (contracts.md 8), the same samples for every model."""
    whole, drawn = values(matches), numbers(matches, samples(images))
    return {name: Sampled(whole=value, drawn=drawn[name]) for name, value in whole.items()}


def by_class(matches: Mapping[str, Matches], classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """AP and AP50 of each class that has an object, boxes and masks."""
    found = {}
    for name in ("AP", "AP50", "mask_AP", "mask_AP50"):
        place, threshold = METRICS[name]
        if place not in matches:
            continue
        table = 100 * average_precision(matches[place])[0]
        row = table.mean(axis=0) if threshold is None else table[threshold]
        found[name] = {kind: float(value) for kind, value in zip(classes, row, strict=True) if not np.isnan(value)}
    return found


def stored(matches: Mapping[str, Matches]) -> dict[str, npt.NDArray[np.generic]]:
    """Arrays for the outcomes of a record."""
    return {key: array for name, one in matches.items() for key, array in one.as_arrays(name).items()}


def matches_of(outcomes: Mapping[str, npt.NDArray[np.generic]], path: object) -> dict[str, Matches]:
    """What `stored` gave; empty where the outcomes are of another task. BadData: incomplete."""
    arrays = dict(outcomes)
    try:
        return {name: from_arrays(arrays, name) for name in names_of(arrays)}
    except (KeyError, ValueError) as error:
        raise BadData(path, f"the matches of this record are incomplete ({error}); run it again") from None
