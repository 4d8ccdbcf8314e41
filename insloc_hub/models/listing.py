"""The table of `insloc models`: every name that is known, what it is, what it scores, and where its weights are. Torch-free."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from insloc_hub.errors import BadSpec, InslocError
from insloc_hub.models.fetch import WEIGHTS
from insloc_hub.models.zoo import Entry, Score, entries, how_to_get, list_local, local_folder, read_config, split_name

HEAD = ("arch", "tag", "params", "size", "recipe", "licence", "where")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of a BatchNorm: tensors, but no parameters
UNKNOWN = "-"


def table() -> str:
    """The whole table: a line for each name, its scores and what else is to be said of it indented below."""
    known = entries()
    names = sorted({*known, *list_local()})
    described = [_describe(name, known.get(name)) for name in names]
    widths = [max(map(len, column)) for column in zip(HEAD, *(row for row, _ in described), strict=True)]
    lines = [_line(HEAD, widths)]
    for row, remarks in described:
        lines += [_line(row, widths), *(f"    {remark}" for remark in remarks)]
    return "\n".join(lines)


def shown(score: Score) -> str:
    """A number with its interval.

    >>> shown(Score(protocol="linear/sweep@1", data="photos", metric="top1", value=0.5, low=0.41, high=0.59))
    'linear/sweep@1 on photos: top1 0.500 [0.410, 0.590]'
    """
    return f"{score.protocol} on {score.data}: {score.metric} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def card_scores(folder: Path) -> tuple[Score, ...]:
    """The numbers that a folder's card states, read by the Hub's own parser; none where there is no card, or a broken one."""
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file():
        return ()
    try:
        results = ModelCard.load(path, ignore_metadata_errors=True).data.eval_results or []
    except Exception:  # whatever a YAML parser raises: a person may have edited the card
        return ()
    return tuple(score for result in results if (score := _score(result)) is not None)


def weights_size(path: Path) -> tuple[int, int]:
    """Parameters and bytes of a safetensors file, from its header. BadSpec: not such a file."""
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(min(length, 100_000_000)))
        counted = (tensor["shape"] for name, tensor in header.items() if not name.endswith((*STATISTICS, "__metadata__")))
        return sum(math.prod(shape) for shape in counted), path.stat().st_size
    except (OSError, ValueError, struct.error, TypeError, KeyError, AttributeError):
        raise BadSpec(f"{path}: not a whole safetensors file") from None


def _describe(name: str, entry: Entry | None) -> tuple[tuple[str, ...], list[str]]:
    """The cells of a name's line, and the remarks below it."""
    folder = local_folder(name)
    if folder is not None:
        try:
            return _of_folder(name, folder, entry)
        except InslocError as error:
            return _row(name, where=str(folder)), [f"damaged: {error}"]
    assert entry is not None  # a name comes from a folder or from a list
    where = f"Hub: {entry.hub}" if entry.hub else "not here"
    row = _row(name, entry.params, entry.bytes, entry.recipe, entry.licence, where)
    remarks = [shown(score) for score in entry.scores]
    remarks += [f"no scores of ours; reported {entry.reported}"] if entry.reported else []
    return row, [*remarks, how_to_get(entry)]


def _of_folder(name: str, folder: Path, entry: Entry | None) -> tuple[tuple[str, ...], list[str]]:
    ours: dict[str, Any] = read_config(folder).get("insloc", {})
    params, size = weights_size(folder / WEIGHTS)
    stated = ours.get("recipe")
    recipe = stated.get("name", "") if isinstance(stated, dict) else entry.recipe if entry else ""
    licence = str(ours.get("licence") or (entry.licence if entry else "unknown"))
    remarks = [shown(score) for score in card_scores(folder)]
    return _row(name, params, size, recipe, licence, str(folder)), remarks or ["no scores of ours on its card"]


def _row(
    name: str, params: int | None = None, size: int | None = None, recipe: str = "", licence: str = "", where: str = ""
) -> tuple[str, ...]:
    arch, tag = split_name(name)
    count = f"{params / 1e6:.1f} M" if params else UNKNOWN
    return (
        f"insloc_{arch}",
        tag,
        count,
        f"{size / 1e6:.1f} MB" if size else UNKNOWN,
        recipe or UNKNOWN,
        licence or UNKNOWN,
        where,
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _score(result: Any) -> Score | None:
    """One of the card's results; None: without an interval, so none of ours."""
    args = result.metric_args or {}
    if not {"low", "high"} <= args.keys():
        return None
    return Score(
        protocol=str(result.dataset_config or result.task_name),
        data=str(result.dataset_name),
        metric=str(result.metric_type),
        value=float(result.metric_value),
        low=float(args["low"]),
        high=float(args["high"]),
    )
