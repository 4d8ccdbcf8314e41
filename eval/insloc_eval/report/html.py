"""Records -> one self-contained HTML page: a table with bars for each protocol and data set, maps, notes, commands.

No script, no font, no picture from elsewhere; a detector's drawn test pictures are in the page itself. An interval is
drawn on every bar; nothing is in bold and no model is ranked (see markdown.py).
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from insloc_eval.report.detectors import heading, section, seeds_of
from insloc_eval.report.markdown import notes, order, reference, table_of
from insloc_eval.report.svg import bar, heat
from insloc_hub.records import Result

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #667; --line: #d8dce2; --paper: #fff; --bar: #9db8d9;
  --rule: #1d3b63; --warn: #8a4b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --faint: #99a; --line: #3a3f47; --paper: #16191d; --bar: #3d5f8c;
  --rule: #c8dcf5; --warn: #ffb765; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p.facts, td.id, td.none { color: var(--faint); font-size: .88rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { text-align: left; vertical-align: top;
  padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; font-size: .88rem; } tr.reference td { font-style: italic; color: var(--faint); }
svg { display: block; } svg .value { fill: var(--bar); } svg .frame { fill: none; stroke: var(--line); }
svg .interval { stroke: var(--rule); stroke-width: 1.5; }
ul { margin: .4rem 0; padding-left: 1.2rem; } li.warn { color: var(--warn); }
figure { display: inline-block; margin: .5rem 1.2rem .5rem 0; } figcaption { font-size: .85rem; color: var(--faint); }
pre { background: color-mix(in srgb, var(--line) 40%, transparent); padding: .6rem; overflow-x: auto; font-size: .85rem; }
"""


def html(results: Sequence[Result], pictures: Mapping[str, bytes] | None = None) -> str:
    """The whole page; one sentence where there are no records. `pictures`: JPEGs by record id (store.sheets)."""
    ordered = sorted(results, key=order)
    tables = "".join(_table(list(group), pictures or {}) for _, group in groupby(ordered, key=table_of)) or "<p>No records.</p>"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>insloc-eval</title><style>{STYLE}</style></head><body>\n<h1>insloc-eval: {len(results)} records</h1>"
        "<p>Bars are values, lines their 95 % intervals. What differs is said by <code>insloc-eval compare</code>; two "
        "intervals that overlap, or not, are no test.</p>\n"
        f"{tables}{_commands(ordered)}</body></html>\n"
    )


def _table(results: list[Result], pictures: Mapping[str, bytes]) -> str:
    first = results[0]
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    units = {name: metric.unit for result in results for name, metric in result.metrics.items()}
    scales = {name: _scale([r for r in results if name in r.metrics], name, units[name]) for name in names}
    head = "".join(f"<th>{escape(name)} ({escape(units[name])})</th>" for name in names)
    rows = "".join(_row(heading(result, results), result, names, scales) for result in results)
    rows += "".join(_reference_row(name, values) for name, values in reference(results, names))
    facts = f"{first.data.split}; {first.data.n} test images; data {first.data.fingerprint[:12]}; {seeds_of(results)}."
    return (
        f"<section><h2>{escape(first.protocol)} on {escape(first.data.name)}</h2><p class='facts'>{escape(facts)}</p>"
        f"<div class='wide'><table><tr><th>model</th>{head}<th>record</th></tr>{rows}</table></div>"
        f"{_maps(results)}{section(results, pictures)}<ul>{''.join(_note(note) for note in notes(results))}</ul></section>\n"
    )


def _row(title: str, result: Result, names: list[str], scales: dict[str, float]) -> str:
    cells = []
    for name in names:
        metric = result.metrics.get(name)
        if metric is None:
            cells.append(f"<td class='none'>{'not applicable' if result.not_applicable else ''}</td>")
            continue
        text = f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
        cells.append(f"<td>{text}{bar(metric.value, metric.low, metric.high, scales[name])}</td>")
    return f"<tr><td>{escape(title)}</td>{''.join(cells)}<td class='id'>{result.id}</td></tr>"


def _reference_row(name: str, values: list[str]) -> str:
    cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f"<tr class='reference'><td>{escape(name.strip('*'))}</td>{cells}<td></td></tr>"


def _scale(results: list[Result], name: str, unit: str) -> float:
    """The value of a full bar: 1 for what can't exceed it, else the largest upper end."""
    highest = max(result.metrics[name].high for result in results)
    return 1.0 if unit in ("share", "IoU") else max(highest, 1e-12)


def _maps(results: list[Result]) -> str:
    return "".join(
        f"<figure>{heat(table)}<figcaption>{escape(name)}, {escape(result.model.spec)}</figcaption></figure>"
        for result in results
        for name, table in result.maps.items()
    )


def _note(line: str) -> str:
    text = line.removeprefix("- ")
    warns = "WARNING" in text or "UNINFORMATIVE" in text
    return f"<li{' class=warn' if warns else ''}>{escape(text)}</li>"


def _commands(results: list[Result]) -> str:
    commands = list(dict.fromkeys(result.command for result in results if result.command))
    if not commands:
        return ""
    env = sorted({", ".join(f"{name} {value}" for name, value in result.env.items()) for result in results if result.env})
    ran = "".join(f"<li>{escape(one)}</li>" for one in env)
    return f"<section><h2>How</h2><pre>{escape(chr(10).join(commands))}</pre><ul>{ran}</ul></section>"
