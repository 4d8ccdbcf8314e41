"""Reports of detectors: classes, curves and drawn pictures beside the table; other tasks' reports stay as they are."""

import base64
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from insloc_eval.report import write_report
from insloc_eval.report.detectors import section
from insloc_eval.report.html import html
from insloc_eval.report.markdown import markdown
from insloc_eval.report.svg import curve
from insloc_eval.store import Judged, save, sheet_path, sheets
from insloc_hub.records import Result

MakeRecord = Callable[..., Judged]


@pytest.fixture
def two(make_record: MakeRecord) -> list[Result]:
    """Two fine-tunings of a, one of b."""
    made = []
    for spec, seed in (("a", 0), ("a", 1), ("b", 0)):
        curves = {"AP": [[5.0, 1.0], [10.0, 2.5 + seed]], "loss_classifier": [[5.0, 2.0], [10.0, 1.0]]}
        by_class = {"AP": {"cat": 2.25, "猫 & <dog>": 3.0 + seed}}
        more = {"eval_seed": seed, "settings": {"steps": 10}, "curves": curves, "by_class": by_class}
        made.append(make_record(spec, [0, 1, 1], task="detection", protocol="detection/quick@1", **more).result)
    return made


def test_the_text_has_a_row_a_class_and_a_line_of_scores_by_step(two) -> None:
    text = markdown(two)
    assert text.count("## ") == 1 and "seeds 0, 1." in text  # fine-tuning seeds stand side by side
    row = next(line for line in text.splitlines() if line.startswith("| 猫 & <dog>"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["猫 & <dog>", "3.00", "4.00", "3.00"]
    head = next(line for line in text.splitlines() if line.startswith("| AP "))
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["AP", "a, seed 0", "a, seed 1", "b"]
    assert f"- a, seed 1 ({two[1].id}): AP 1.00 at step 5, 3.50 at step 10" in text


def test_the_page_has_curves_classes_and_the_drawn_pictures_inside(two) -> None:
    page = html(two, {two[0].id: b"jpeg bytes"})
    assert base64.b64encode(b"jpeg bytes").decode() in page and page.count("<img ") == 1
    assert page.count("aria-label='2.500 at step 10'") == 2 and page.count("<figcaption>loss_classifier") == 3
    assert "猫 &amp; &lt;dog&gt;" in page and "<dog>" not in page
    HTMLParser().feed(page)


def test_records_of_other_tasks_have_nothing_of_this(make_record) -> None:
    result = make_record("a", [0, 1, 1]).result
    assert section([result], {}) == "" and "by class" not in html([result])


def test_a_curve_ends_where_its_last_value_is() -> None:
    drawn = curve([[5.0, 1.0], [10.0, 4.0]])
    path = drawn.split("d='M")[2].split("'")[0]
    (x1, y1), (x2, y2) = (tuple(map(float, place.split())) for place in path.split(" L"))
    top, floor = 14, 110 - 14
    assert (x2, y2) == (14 + 220 - 56, top) and x1 == 14 + (220 - 56) / 2 and y1 == floor - (floor - top) / 4
    assert ">4</text>" in drawn and ">10</text>" in drawn
    assert curve([[1.0, 0.0]]).count("<path") == 2  # a lone zero divides by nothing


def test_a_written_page_takes_the_sheets_of_its_folder(make_record, two, tmp_path) -> None:
    save(tmp_path, replace(make_record("a", [0, 1, 1]), result=two[0]))
    sheet_path(tmp_path, "detection", two[0].id).write_bytes(b"drawn")
    found = sheets(tmp_path, two)
    assert found == {two[0].id: b"drawn"}
    write_report(two, tmp_path / "page.html", found)
    assert base64.b64encode(b"drawn").decode() in (tmp_path / "page.html").read_text(encoding="utf-8")
