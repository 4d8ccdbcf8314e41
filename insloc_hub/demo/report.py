"""One self-contained HTML page of what the demo did. It computes nothing: what it says stands in the facts it is given."""

from dataclasses import dataclass
from html import escape

from insloc_hub.records import Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """What the page tells, all of it measured in this run."""

    arch: str
    steps: int
    images_seen: int
    pretrain_s: float | None
    """Seconds of pretraining; None where a run of before was continued."""
    total_s: float
    machine: str
    views: str
    """Data URI of the composites."""
    curve: str
    """SVG of loss and accuracy."""
    heat: str
    """Data URI of the similarity maps."""
    results: tuple[Result, ...]
    differences: tuple[str, ...]
    """Sentences: trained minus random, with interval and verdict."""
    tensors: int
    """Tensors that plain timm read back bit for bit."""
    request: str
    """The HTTP request that was sent, as a command."""
    answer: str
    """What came back, shortened."""
    served_error: float
    """Largest difference between the served vectors and the library's."""
    commands: tuple[tuple[str, str], ...]
    """What to do next: reason, command."""


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#22303c;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #d5dce2}
table{border-collapse:collapse;width:100%;font-size:.9rem} th,td{padding:.35rem .6rem;text-align:left;vertical-align:top}
th{border-bottom:2px solid #22303c} td{border-bottom:1px solid #e3e8ec} 
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
img{max-width:100%;height:auto} pre{background:#f3f5f7;padding:.7rem;overflow-x:auto;font-size:.85rem;white-space:pre-wrap}
.note{background:#fff7e6;border-left:4px solid #d97706;padding:.5rem .9rem} small{color:#5c6b78} svg{max-width:100%;height:auto}
"""


def page(story: Story) -> str:
    """The whole file."""
    took = "continued from an earlier call" if story.pretrain_s is None else f"{story.pretrain_s:.0f} s"
    sections = [
        f"<h1>InsLoc, once through the house</h1><p><small>{escape(story.machine)}; {story.total_s:.0f} s in all, "
        f"pretraining {took}.</small></p>",
        _limits(story),
        _section(
            "What it was trained on",
            f'<p><img alt="composites with their boxes" src="{story.views}"></p><p>Each column is one image, cropped twice and '
            "pasted on two other images: query above, key below. Yellow is the pasted crop; cyan is the box that the query is "
            "pooled from, a random anchor that overlaps it (box augmentation). The network must find the same image again "
            "from the features inside the box.</p>",
        ),
        _section(
            "Pretraining",
            f"<p>{escape(story.arch)}, InsLoc-C4 (as inferred), {story.steps:,} steps, {story.images_seen:,} pairs of "
            "composites. The dashed line is what a network pays that recognises nothing. The loss rises at first, while the "
            f"queue fills with real keys in place of random ones.</p>{story.curve}",
        ),
        _section(
            "Export",
            f"<p>Plain timm read {story.tensors} tensors back from the exported folder, each equal to the trained one bit for "
            "bit. Without <code>pretrained=True</code> timm gives random weights and says nothing.</p>",
        ),
        _section("Is it good?", _results(story)),
        _section(
            "Where the box's features light up",
            f'<p><img alt="similarity maps" src="{story.heat}"></p><p>Left: the image with a box. Middle: cosine of the box\'s '
            "region vector with every place of the stride-16 map, random network. Right: the same, after this run. A map this "
            "coarse and a run this short are to be looked at, not judged by.</p>",
        ),
        _section(
            "Served",
            f"<pre>{escape(story.request)}</pre><pre>{escape(story.answer)}</pre><p>Largest difference between the vectors "
            f"that came over HTTP and the library's own: {story.served_error:.1e}.</p>",
        ),
        _section("Go on", "".join(f"<p>{escape(why)}</p><pre>{escape(what)}</pre>" for why, what in story.commands)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>InsLoc demo</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>{body}"


def _limits(story: Story) -> str:
    return (
        f'<p class="note">This page shows that every part works, on {story.images_seen:,} composites of drawn shapes. '
        "It is no evidence that the method works: the paper's runs see 256 million images. One pretraining run per row, "
        "so the intervals speak of the test images only, not of training noise, and a number from drawn shapes says "
        "nothing about photographs.</p>"
    )


def _results(story: Story) -> str:
    """A row per metric, a column per network; what needs no network stands in the last column."""
    networks = sorted({r.model.spec for r in story.results}, key=lambda spec: (spec.startswith("random:"), spec))
    by = {(r.protocol, r.model.spec): r for r in story.results}
    rows = []
    for protocol in sorted({r.protocol for r in story.results}):
        first = by[protocol, networks[0]]
        for name, metric in first.metrics.items():
            cells = "".join(f'<td class="n">{_cell(by.get((protocol, spec)), name)}</td>' for spec in networks)
            bare = "<br>".join(f"{escape(row)} {_number(v[name])}" for row, v in first.rows.items() if name in v)
            told = f"{escape(protocol)}<br>{escape(name)}, {escape(metric.unit)}"
            rows.append(f"<tr><td>{told}</td>{cells}<td><small>{bare}</small></td></tr>")
    heads = "".join(f"<th>{escape(spec) if spec.startswith('random:') else 'InsLoc, this run'}</th>" for spec in networks)
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in story.differences)
    notes = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(n for r in story.results for n in r.notes))
    return (
        "<p><b>linear</b>: a linear classifier on the frozen pooled vector. <b>patches/linear</b>: which cell of a 3 x 3 grid "
        "is this? A diagnostic only: zero padding tells a network where it is, so random weights can reach 100 %. "
        "<b>patches/relocate</b>: where in this picture is this patch, seen anew? The localization figure to stand by. "
        "Values with 95 % intervals over the test images. The run started from ordinary norms: that column is its fair "
        "rival.</p>"
        f"<table><tr><th>protocol, metric</th>{heads}<th>without a network</th></tr>{''.join(rows)}</table>"
        f"<p>Trained minus random, paired over the test images:</p><ul>{said}</ul><details><summary>Notes of the records"
        f"</summary><ul>{notes}</ul></details>"
    )


def _cell(result: Result | None, name: str) -> str:
    if result is None or name not in result.metrics:
        return ""
    metric = result.metrics[name]
    return f"{_number(metric.value)}<br><small>[{_number(metric.low)}, {_number(metric.high)}], n {metric.n:,}</small>"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
