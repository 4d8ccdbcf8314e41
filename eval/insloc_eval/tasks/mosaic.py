"""regions/mosaic: the class of an object among eight others, from region features at its real box (contracts.md 10).

The C4 path is the primary row; region means of the stride-32 and the stride-16 map stand beside it, and the same tiles
alone are the second table: what clutter costs. Read-out: linear/sweep's, once for each path. The unit of resampling is
the mosaic.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from insloc_eval.ask import HALVES
from insloc_eval.job import Job
from insloc_eval.protocols import Mosaic
from insloc_eval.sets import halves_of, held_out, unreadable
from insloc_eval.stats import mean, share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.sweep import sweep
from insloc_eval.tasks.mosaic_draws import Sheet, compose
from insloc_eval.tasks.mosaic_features import Paths, RegionTable, paths_of, region_table
from insloc_hub.data.folder import Sample
from insloc_hub.errors import BadData
from insloc_hub.records import Metric

COORDINATES = "coordinates alone"
FEWEST = 2  # mosaics of either kind: one to learn from and one to choose by; an interval needs two


def run(job: Job) -> Judged:
    """Top-1 of each path in the mosaic and alone, and the difference, mosaic by mosaic."""
    protocol, split = job.protocol, job.split
    assert isinstance(protocol, Mosaic) and split.boxes is not None
    paths = paths_of(job, protocol)
    train_sheets = compose(protocol, "train", split.train.samples)
    test_sheets, unused = _test_sheets(protocol, split.test.samples)
    for name, sheets in (("training", train_sheets), ("test", test_sheets)):
        if len(sheets) < FEWEST:
            raise BadData(split.train.root, f"its {name} images give {len(sheets)} mosaics of {protocol.grid**2}; 2 are needed")
    train = region_table(job, protocol, paths, train_sheets, split.boxes.train, f"{job.shown}: training mosaics")
    test = region_table(job, protocol, paths, test_sheets, split.boxes.test, f"{job.shown}: test mosaics")
    hits, notes = _hits(job, protocol, paths, train, test, len(split.train.classes))
    names = tuple(dict.fromkeys(test.sheet))
    outcomes = {name: _by_sheet(values, test.sheet, names) for name, values in hits.items() if name != COORDINATES}
    for name in paths.names:
        outcomes[f"clutter{_suffix(name)}"] = outcomes[f"alone{_suffix(name)}"] - outcomes[f"top1{_suffix(name)}"]
    blind = _by_sheet((test.labels == train.labels.bincount().argmax()).double().numpy(), test.sheet, names).mean()
    counts = {"train_mosaics": len(train_sheets), "test_mosaics": len(names), "test_regions": len(test.labels)}
    counts |= {f"train_{k}": n for k, n in train.counts.items()} | {f"test_{k}": n for k, n in test.counts.items()}
    counts |= {
        "train_images_left_over": len(split.train) - protocol.grid**2 * len(train_sheets),
        "test_images_left_over": unused,
    }
    for half, table in (("train", train), ("test", test)):
        more, text = unreadable(table.skipped, half)
        counts, notes = {**counts, **more}, (*notes, *text)
    missing = (f"no c4 row: {paths.why_not_c4}",) if paths.why_not_c4 else ()
    result = job.result(
        metrics={n: _metric(n, v, protocol.grid**2) for n, v in outcomes.items()},
        rows={
            "chance": {"top1": 1 / len(set(train.labels.tolist()))},
            "most common class": {"top1": float(blind)},
            COORDINATES: {"top1": float(_by_sheet(hits[COORDINATES], test.sheet, names).mean())},
        },
        counts=counts,
        notes=(*missing, *notes),
        maps=_map(protocol, hits[f"top1{_suffix(paths.names[0])}"], test),
    )
    return Judged(result=result, outcomes=outcomes_of(names, **outcomes))


def _test_sheets(protocol: Mosaic, samples: tuple[Sample, ...]) -> tuple[list[Sheet], int]:
    """The mosaics of the asked halves, and the number of their images that are left over."""
    asked = {half: images for half, images in halves_of(samples).items() if protocol.half in ("", half)}
    assert set(asked) <= set(HALVES)
    sheets = [sheet for half, images in asked.items() for sheet in compose(protocol, half, images)]
    return sheets, sum(map(len, asked.values())) - protocol.grid**2 * len(sheets)


def _hits(
    job: Job, protocol: Mosaic, paths: Paths, train: RegionTable, test: RegionTable, classes: int
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Metric -> 0/1 for each region of the test mosaics, and what was chosen."""
    # Whole mosaics are held out: the tiles of one share their neighbours.
    out = _held(train, protocol)
    asked: dict[str, tuple[Tensor, Tensor]] = {COORDINATES: (train.coordinates, test.coordinates)}
    for name in paths.names:
        asked[f"top1{_suffix(name)}"] = (train.inside[name], test.inside[name])
        asked[f"alone{_suffix(name)}"] = (train.alone[name], test.alone[name])
    hits, notes = {}, []
    for name, (known, wanted) in asked.items():
        one = replace(protocol, poolings=(name,))
        label = f"{job.shown}: heads, {name}"
        answer = sweep({name: known}, train.labels, out, {name: wanted}, None, classes, one, job.seed, label)
        hits[name] = (answer.chosen.scores.argmax(dim=1).cpu() == test.labels).double().numpy()
        notes.append(f"{answer.chosen.head}; top-1 {answer.chosen.accuracy:.3f} on {int(out.sum())} held-out training regions")
    return hits, tuple(notes)


def _held(train: RegionTable, protocol: Mosaic) -> Tensor:
    sheets = list(dict.fromkeys(train.sheet))
    away = {n for n, gone in zip(sheets, held_out(sheets, [0] * len(sheets), protocol.held_out), strict=True) if gone}
    return torch.tensor([name in away for name in train.sheet])


def _by_sheet(values: np.ndarray, sheet: tuple[str, ...], names: tuple[str, ...]) -> np.ndarray:
    """The mean of each mosaic's regions."""
    number = {name: i for i, name in enumerate(names)}
    at = np.array([number[name] for name in sheet])
    return np.bincount(at, weights=values, minlength=len(names)) / np.bincount(at, minlength=len(names))


def _suffix(path: str) -> str:
    """Of a metric's name: the C4 path is the primary row and has none."""
    return "" if path == "c4" else f"_{path}"


def _metric(name: str, values: np.ndarray, trials: int) -> Metric:
    return mean(values, "share") if name.startswith("clutter") else share(values, trials=trials)


def _map(protocol: Mosaic, hits: np.ndarray, test: RegionTable) -> dict[str, list[list[float]]]:
    """Share of right answers by the tile's place; none where a place has no region."""
    place = np.array(test.place)
    count = np.bincount(place, minlength=protocol.grid**2)
    if (count == 0).any():
        return {}
    found = np.bincount(place, weights=hits, minlength=protocol.grid**2) / count
    return {"top1 by the tile's place": found.reshape(protocol.grid, protocol.grid).tolist()}
