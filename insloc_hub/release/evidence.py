"""Records of `insloc-eval` -> the model-index of a card, in the Hub's own form, and the table that people read.

A number is on the card only if its record was made with exactly these weights. Protocol, seeds, interval, sampling units and
the record's id travel with it.
"""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from insloc_hub.errors import BadData
from insloc_hub.records import Metric, Result, result_from_dict

TASK = "image-feature-extraction"
RECORD = re.compile(r"[0-9a-f]{16}\.json")


def read_records(folder: Path, weights: str) -> tuple[list[Result], int]:
    """The records below `folder` of the network with this digest, and how many there are of others.

    BadData: a record that can't be read or was edited, or none of these weights.
    """
    if not folder.is_dir():
        raise BadData(folder, "no such folder of results; make one with: insloc-eval run --out RESULTS ...")
    results = [_read(path) for path in sorted(folder.glob("*/*.json")) if RECORD.fullmatch(path.name)]
    own = [result for result in results if result.model.sha256 == weights and result.metrics]
    if not own:
        raise BadData(
            folder,
            f"none of its {len(results)} records is of these weights; make some: insloc-eval run --model FOLDER "
            f"--out {folder} ..., or leave --records out",
        )
    own.sort(key=lambda result: (result.protocol, result.data.name, result.eval_seed, result.id))
    return own, len(results) - len(own)


def to_index(results: list[Result]) -> list[EvalResult]:
    """A line of the model-index for every metric of every record."""
    return [_line(result, name, metric) for result in results for name, metric in result.metrics.items()]


def table(index: list[EvalResult]) -> str:
    """The same in Markdown, and what must be said beside the numbers; "" where there are none."""
    if not index:
        return ""
    notes = dict.fromkeys(
        f"{line.dataset_config}: {note}" for line in index for note in (line.metric_args or {}).get("notes", ())
    )
    head = "| protocol | data | metric | value [95 % interval] | n | seeds: pretraining, evaluation | without a network |"
    lines = [head, "|" + " --- |" * 7, *map(_row, index)]
    return "\n".join([*lines, *([""] if notes else []), *(f"- {note}" for note in notes)])


def slug(name: str) -> str:
    """A name as the Hub takes it for a data set.

    >>> slug("my photos (2)")
    'my-photos-2'
    """
    return re.sub(r"[^A-Za-z0-9._/]+", "-", name).strip("-./") or "unnamed"


def _read(path: Path) -> Result:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(path, f"can't be read as a record ({error}); delete it, or run it again") from None
    if not isinstance(values, dict):
        raise BadData(path, "is no result record")
    return result_from_dict(values, path)


def _line(result: Result, name: str, metric: Metric) -> EvalResult:
    seeds = {} if result.pretrain_seed is None else {"pretrain_seed": result.pretrain_seed}
    rows = {row: values[name] for row, values in result.rows.items() if name in values}
    args: dict[str, Any] = {"low": metric.low, "high": metric.high, "unit": metric.unit, "n": metric.n, **seeds}
    args |= {"eval_seed": result.eval_seed, "protocol_hash": result.protocol_hash, "record": result.id}
    args |= ({"rows": rows} if rows else {}) | ({"notes": list(result.notes)} if result.notes else {})
    return EvalResult(
        task_type=TASK,
        task_name=result.protocol,
        dataset_type=slug(result.data.name),
        dataset_name=result.data.name,
        dataset_config=result.protocol,  # what separates two protocols on the same data (Hub: one entry each)
        dataset_split=result.data.split,
        dataset_revision=result.data.fingerprint,
        metric_type=name,
        metric_name=f"{result.protocol} {name}",
        metric_value=metric.value,
        metric_args=args,
    )


def _row(line: EvalResult) -> str:
    args: dict[str, Any] = line.metric_args or {}
    value = f"{line.metric_value:.3f}"
    if {"low", "high"} <= args.keys():
        value += f" [{args['low']:.3f}, {args['high']:.3f}] {args.get('unit', '')}".rstrip()
    rows = ", ".join(f"{name} {number:.3f}" for name, number in args.get("rows", {}).items())
    seeds = f"{args.get('pretrain_seed', 'unknown')}, {args.get('eval_seed', 'unknown')}"
    cells = (
        line.dataset_config,
        f"{line.dataset_name}, {line.dataset_split}",
        line.metric_type,
        value,
        args.get("n"),
        seeds,
        rows,
    )
    return "| " + " | ".join("" if cell is None else str(cell).replace("|", "/") for cell in cells) + " |"
