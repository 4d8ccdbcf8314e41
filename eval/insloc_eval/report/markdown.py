"""Records -> a Markdown table for each protocol and data set, an interval beside every number.

Nothing is set in bold and no model is ranked: with one pretraining seed an interval covers the test images only, so a
winner printed in bold would claim more than is known. `insloc-eval compare` says what differs.
"""

from collections.abc import Sequence
from itertools import groupby

from insloc_eval.report.detectors import SHOWN, class_head, class_rows, heading, seeds_of, step_lines
from insloc_hub.records import Metric, Result


def markdown(results: Sequence[Result]) -> str:
    """The whole report; one sentence where there are no records."""
    if not results:
        return "No records.\n"
    return "\n".join(_table(list(group)) for _, group in groupby(sorted(results, key=order), key=table_of))


def order(result: Result) -> tuple[str | int | bool, ...]:
    """Tables one after the other, random models last in each."""
    return (*table_of(result), result.model.spec.startswith("random:"), result.model.spec, result.id)


def cell(metric: Metric) -> str:
    """Value and interval.

    >>> cell(Metric(value=0.5, low=0.4125, high=0.6, unit="share", n=9))
    '0.500 [0.412, 0.600]'
    """
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def table_of(result: Result) -> tuple[str, str, str, str, str, int]:
    """Records with the same of these share a table."""
    data = result.data
    seed = 0 if result.settings else result.eval_seed  # a detector's seeds stand side by side
    return (result.protocol, result.protocol_hash, data.name, data.split, data.fingerprint, seed)


def _table(results: list[Result]) -> str:
    first = results[0]
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    units = {name: metric.unit for result in results for name, metric in result.metrics.items()}
    head = [f"{name} ({units[name]})" for name in names]
    rows = [[heading(r, results), *_cells(r, names), r.id] for r in results]
    rows += [[name, *values, ""] for name, values in reference(results, names)]
    title = f"## {first.protocol} on {first.data.name}"
    facts = f"{first.data.split}; {first.data.n} test images; data {first.data.fingerprint[:12]}; {seeds_of(results)}."
    lines = [title, "", facts, "", *_grid(["model", *head, "record"], rows), ""]
    for name in SHOWN:
        if classes := class_rows(results, name):
            lines += [*_grid(class_head(results, name), classes), ""]
    lines += [*step_lines(results), *notes(results)]
    return "\n".join(lines) + "\n"


def _cells(result: Result, names: list[str]) -> list[str]:
    empty = "not applicable" if result.not_applicable else ""
    return [cell(result.metrics[name]) if name in result.metrics else empty for name in names]


def reference(results: list[Result], names: list[str]) -> list[tuple[str, list[str]]]:
    """Rows that need no network, once each: they are equal in all records of a table unless images could not be read."""
    seen: dict[tuple[str, ...], None] = {}
    for result in results:
        for name, values in result.rows.items():
            seen[(f"*{name}*", *(f"{values[n]:.3f}" if n in values else "" for n in names))] = None
    return [(row[0], list(row[1:])) for row in seen]


def notes(results: list[Result]) -> list[str]:
    """Each note once, with the models it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for result in results:
        reasons = (f"not applicable: {result.not_applicable}",) if result.not_applicable else ()
        for note in (*reasons, *result.notes):
            about.setdefault(note, []).append(result.model.spec)
    lines = []
    for note, specs in about.items():
        whose = "" if len(specs) == len(results) else f"{', '.join(specs)}: "
        lines.append(f"- {whose}{note}")
    return sorted(lines, key=lambda line: line.startswith("- random:"))


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table that also reads well in a terminal."""
    safe = [[text.replace("|", "\\|") for text in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in safe) for column in range(len(head))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in safe]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
