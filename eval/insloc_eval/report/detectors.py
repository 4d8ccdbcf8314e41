"""What records of detectors have besides their table: AP by class, curves, drawn test pictures. Pure functions of records."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from insloc_eval.report.svg import curve
from insloc_hub.records import Result

SHOWN = ("AP", "AP50", "mask_AP")


def class_rows(results: Sequence[Result], metric: str) -> list[list[str]]:
    """One row a class, one column a record; empty where no record has the metric by class."""
    known = [one for one in results if metric in one.by_class]
    names = list(dict.fromkeys(name for one in known for name in one.by_class[metric]))
    return [[name, *(_number(one.by_class[metric].get(name)) for one in known)] for name in names]


def class_head(results: Sequence[Result], metric: str) -> list[str]:
    """The names of `class_rows`' columns: a model, with its fine-tuning seed where it has several."""
    return [metric, *(heading(one, results) for one in results if metric in one.by_class)]


def heading(one: Result, results: Sequence[Result]) -> str:
    """The model, and its seed where another record of it has another one."""
    seeds = {other.eval_seed for other in results if other.model.spec == one.model.spec}
    return one.model.spec if len(seeds) == 1 else f"{one.model.spec}, seed {one.eval_seed}"


def seeds_of(results: Sequence[Result]) -> str:
    """The evaluation seeds of a table.

    >>> seeds_of([])
    'no seed'
    """
    seeds = sorted({one.eval_seed for one in results})
    words = ", ".join(map(str, seeds))
    return "no seed" if not seeds else f"seed{'s' if len(seeds) > 1 else ''} {words}"


def step_lines(results: Sequence[Result]) -> list[str]:
    """AP along the training as text: a line a record and metric."""
    lines = []
    for one in results:
        for name in (name for name in SHOWN if name in one.curves):
            path = ", ".join(f"{value:.2f} at step {step:.0f}" for step, value in one.curves[name])
            lines.append(f"- {heading(one, results)} ({one.id}): {name} {path}")
    return lines


def section(results: Sequence[Result], pictures: Mapping[str, bytes]) -> str:
    """The HTML below a table; empty for records of other tasks."""
    tables = "".join(_class_table(results, metric) for metric in SHOWN)
    drawn = "".join(_figures(one, results, pictures.get(one.id)) for one in results)
    return tables + drawn


def _class_table(results: Sequence[Result], metric: str) -> str:
    rows = class_rows(results, metric)
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in class_head(results, metric))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h3>{escape(metric)} by class (points)</h3><div class='wide'><table><tr>{head}</tr>{body}</table></div>"


def _figures(one: Result, results: Sequence[Result], picture: bytes | None) -> str:
    name = escape(f"{heading(one, results)} ({one.id})")
    found = "".join(
        f"<figure>{curve(points)}<figcaption>{escape(title)}</figcaption></figure>" for title, points in one.curves.items()
    )
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        words = "Test pictures: objects in white, detections in colour with class and score."
        found += f"<figure><img alt='{words}' src='data:image/jpeg;base64,{data}'><figcaption>{words}</figcaption></figure>"
    return f"<h3>{name}</h3>{found}" if found else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
