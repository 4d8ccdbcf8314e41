"""The HTML page: well-formed, alone, an interval on every bar, and everything that a record says."""

from collections.abc import Callable
from html.parser import HTMLParser

from insloc_eval.report.html import html
from insloc_eval.store import Judged
from insloc_hub.records import Metric

MakeRecord = Callable[..., Judged]
VOID = {"meta", "rect", "path"}


class Checker(HTMLParser):
    """Every tag that is opened is closed, in order; what leads outside is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.outside += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "onclick")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_is_well_formed_and_asks_for_nothing_from_elsewhere(make_record: MakeRecord) -> None:
    page = html([make_record("a", [0, 1, 1]).result, make_record("b", [1, 1, 1], protocol="patches/linear@1").result])
    found = read(page)
    assert found.outside == [] and "script" not in found.count and "@import" not in page and "url(" not in page
    assert found.count["table"] == 2 and found.count["svg"] == 2  # one bar for each number of a model
    assert read(html([])).count.get("table") is None and "No records." in html([])


def test_every_number_has_its_interval_in_figures_and_on_its_bar(make_record: MakeRecord) -> None:
    page = html([make_record("a", [0, 1, 1, 1]).result])
    assert "0.750 [0.301, 0.954]" in page
    assert "width='112.5'" in page  # .75 of 150 px
    assert "M45.1 6.0 H143.2" in page  # the interval
    assert "<b>" not in page and "<strong>" not in page


def test_bars_of_one_column_share_a_scale_and_none_leaves_its_frame(make_record: MakeRecord) -> None:
    long, short = (Metric(value=v, low=v / 2, high=2 * v, unit="cells", n=3) for v in (4.0, 1.0))
    results = [make_record(spec, [0, 1, 1], metrics={"far": m}).result for spec, m in (("a", long), ("b", short))]
    page = html(results)
    assert "width='75.0'" in page and "width='18.8'" in page  # 4 and 1 of 8, the largest upper end
    below = html([make_record("c", [0, 1], metrics={"gain": Metric(value=-1, low=-2, high=3, unit="points", n=3)}).result])
    assert "width='0.0'" in below and "M0.0 6.0 H150.0" in below


def test_maps_notes_commands_and_versions_are_on_the_page_and_text_is_escaped(make_record: MakeRecord) -> None:
    record = make_record(
        "<img src=x>",
        [0, 1],
        maps={"top1": [[0.0, 0.25], [1.0, 0.5]]},
        notes=("WARNING: a < b",),
        command="insloc-eval run --model 'a&b'",
        env={"torch": "2.0", "git": "abc"},
    )
    page = html([record.result])
    assert "<img" not in page and "&lt;img src=x&gt;" in page
    assert "fill='rgb(255,255,255)'" in page and "fill='rgb(20,66,130)'" in page and ">0.25</text>" in page
    assert "<li class=warn>WARNING: a &lt; b</li>" in page
    assert "--model &#x27;a&amp;b&#x27;" in page and "torch 2.0, git abc" in page


def test_the_page_is_the_same_in_any_order_of_records(make_record: MakeRecord) -> None:
    results = [make_record(spec, [0, 1, 1]).result for spec in "abc"]
    assert html(results) == html(results[::-1])
