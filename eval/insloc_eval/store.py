"""A folder of records: RESULTS/<task>/<id>.json with the per-image outcomes <id>.npz beside it. Torch-free.

The npz is written first and the JSON renamed into place last, so that a JSON stands for a finished job and two processes
may fill one folder. On reading, every stored number must be the mean of its stored outcomes, or the AP of its stored
matches: a half-written pair or an edited number is named, never reported.
"""

import json
import math
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insloc_eval.detection.scores import UNIT, matches_of, values
from insloc_hub.errors import BadData
from insloc_hub.files import write_json, write_whole
from insloc_hub.records import Result, result_from_dict

CLOSE = 1e-9

Outcomes = dict[str, npt.NDArray[Any]]
"""`keys` of the test images, and per metric one number for each of them; NaN where an image has none of this metric."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A finished job: the record, and the per-image outcomes that its numbers are means of."""

    result: Result
    outcomes: Outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """What a folder of records holds."""

    results: list[Result]
    problems: list[str]
    """Records that can't be used, a sentence each."""


def outcomes_of(keys: tuple[str, ...], **values: npt.NDArray[Any]) -> Outcomes:
    """Outcomes in the form that is stored."""
    return {"keys": np.array(keys, dtype=np.str_), **values}


def record_path(folder: Path, task: str, record_id: str) -> Path:
    """Where a record lives."""
    return folder / task / f"{record_id}.json"


def sheet_path(folder: Path, task: str, record_id: str) -> Path:
    """Where a detector's drawn test pictures live, if it has any."""
    return record_path(folder, task, record_id).with_suffix(".jpg")


def sheets(folder: Path, results: list[Result]) -> dict[str, bytes]:
    """The drawn test pictures of the records that have some, by id."""
    paths = {result.id: sheet_path(folder, result.task, result.id) for result in results}
    return {record: path.read_bytes() for record, path in paths.items() if path.is_file()}


def save(folder: Path, judged: Judged) -> Path:
    """Write the outcomes, then the record. CannotWrite."""
    path = record_path(folder, judged.result.task, judged.result.id)

    def write_outcomes(part: Path) -> None:
        with part.open("wb") as handle:
            np.savez_compressed(handle, **judged.outcomes)  # type: ignore[arg-type]

    write_whole(path.with_suffix(".npz"), write_outcomes)
    write_json(path, judged.result.as_dict())
    return path


def load(path: Path) -> Judged:
    """A record with its outcomes. BadData: missing, half-written, edited, or of a newer schema."""
    result = load_result(path)
    outcomes = _outcomes(path.with_suffix(".npz"))
    known = values(matches_of(outcomes, path))
    for name, metric in result.metrics.items():
        if metric.unit == UNIT:
            if abs(known.get(name, math.nan) - metric.value) <= CLOSE and len(outcomes["keys"]) == metric.n:
                continue
            raise BadData(path, f"{name} is not what its matches in {path.stem}.npz give: edited or half-written")
        counted = outcomes[name][~np.isnan(outcomes[name])] if name in outcomes else np.zeros(0)
        if len(counted) != metric.n:
            raise BadData(path, f"its outcomes {path.stem}.npz have no {metric.n} values of {name}; run it again")
        if abs(float(counted.mean()) - metric.value) > CLOSE:
            raise BadData(path, f"{name} is not the mean of its outcomes in {path.stem}.npz: edited or half-written")
    return Judged(result=result, outcomes=outcomes)


def load_result(path: Path) -> Result:
    """A record alone. BadData."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise BadData(path, f"is no JSON ({error}); it is damaged, run it again") from None
    if not isinstance(values, dict):
        raise BadData(path, "is no result record")
    result = result_from_dict(values, path)
    if path.stem != result.id:
        raise BadData(path, f"is called {path.stem} but holds the record {result.id}: it was renamed or copied")
    return result


def browse(folder: Path) -> Shelf:
    """All records below `folder`, those that hold and those that don't. BadData: no such folder."""
    if not folder.is_dir():
        raise BadData(folder, "no such folder of results; make one with: insloc-eval run --out RESULTS ...")
    results, problems = [], []
    for path in sorted(folder.glob("*/*.json")):
        try:
            results.append(load(path).result)
        except BadData as error:
            problems.append(str(error))
    return Shelf(results=results, problems=problems)


def pick(folder: Path, names: str) -> list[Result]:
    """The records of `folder` that `names` mean. BadData: a name that means none.

    A name is a model as the report names it, a pattern of models (* and ?), or the start of an id; several stand with
    commas between.
    """
    results = browse(folder).results
    found: list[Result] = []
    for name in names.split(","):
        hits = [result for result in results if name == result.model.spec]
        hits = hits or [result for result in results if fnmatchcase(result.model.spec, name)]
        hits = hits or [result for result in results if len(name) >= 4 and result.id.startswith(name)]
        if not hits:
            known = ", ".join(sorted({result.model.spec for result in results})) or "none"
            raise BadData(folder, f"no record of {name!r}, as a model or as the start of an id. Models there: {known}")
        found += [hit for hit in hits if hit not in found]
    return found


def _outcomes(path: Path) -> Outcomes:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise BadData(path, "the outcomes of this record are missing; run it again") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadData(path, f"the outcomes of this record can't be read ({error}); run it again") from None
