"""Reports are functions of records: tables with an interval beside every number, nothing ranked, notes printed."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_eval.report import write_report
from insloc_eval.report.csv import csv as to_csv
from insloc_eval.report.html import html
from insloc_eval.report.lists import record_list, task_list
from insloc_eval.report.markdown import markdown
from insloc_eval.stats import ONE_SEED
from insloc_eval.store import Judged, Shelf
from insloc_hub.errors import InslocError

MakeRecord = Callable[..., Judged]


def test_no_records_are_one_sentence() -> None:
    assert markdown([]) == "No records.\n"
    assert len(to_csv([]).splitlines()) == 1
    assert record_list(Shelf(results=[], problems=[])) == "no records"


def test_a_table_has_a_row_for_each_model_with_intervals_and_the_reference_rows_once(make_record: MakeRecord) -> None:
    results = [make_record(spec, [0, 1, 1, 1]).result for spec in ("random:resnet18", "runs/first")]
    text = markdown(results)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["runs/first", "random:resnet18", "*chance*"]
    assert rows[2].count("0.750 [0.301, 0.954]") == 1 and "0.100" in rows[4]
    assert "**" not in text
    assert len({len(row) for row in rows}) == 1


def test_protocols_and_data_sets_have_tables_of_their_own(make_record: MakeRecord) -> None:
    results = [make_record("a", [0, 1]).result, make_record("a", [0, 1], protocol="patches/linear@1").result]
    assert markdown(results).count("\n## ") + markdown(results).startswith("## ") == 2


def test_a_note_of_all_is_printed_once_and_one_of_some_with_their_names(make_record: MakeRecord) -> None:
    results = [make_record("a", [0, 1]).result, make_record("b", [0, 1], notes=("WARNING: odd", ONE_SEED)).result]
    lines = markdown(results).splitlines()
    assert lines.count(f"- {ONE_SEED}") == 1 and "- b: WARNING: odd" in lines


def test_a_report_is_the_same_in_any_order_of_records(make_record: MakeRecord) -> None:
    results = [make_record(spec, [0, 1, 1]).result for spec in "abc"]
    assert markdown(results) == markdown(results[::-1]) and to_csv(results) == to_csv(results[::-1])


def test_csv_has_a_line_for_each_number_and_reads_back(make_record: MakeRecord) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([make_record("a, b", [0, 1, 1]).result]))))
    assert [(row["row"], row["kind"], row["metric"]) for row in rows] == [
        ("a, b", "model", "top1"),
        ("chance", "reference", "top1"),
    ]
    assert float(rows[0]["value"]) == 2 / 3 and int(rows[0]["n"]) == 3 and rows[1]["low"] == ""


def test_the_ending_chooses_the_form_and_a_strange_one_is_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    results = [make_record("a", [0, 1]).result]
    write_report(results, tmp_path / "r.md")
    write_report(results, tmp_path / "r.csv")
    assert (tmp_path / "r.md").read_text() == markdown(results) and (tmp_path / "r.csv").read_text() == to_csv(results)
    with pytest.raises(InslocError, match=r"\.md or \.csv or \.html"):
        write_report(results, tmp_path / "r.xlsx")


def test_lists_name_every_protocol_every_record_and_every_problem(make_record: MakeRecord) -> None:
    assert all(name in task_list() for name in ("linear/logistic@1", "patches/linear@1", "patches/relocate@1"))
    result = make_record("a", [0, 1]).result
    text = record_list(Shelf(results=[result], problems=["x.json: cut"]))
    assert result.id in text and "unusable: x.json: cut" in text


def test_a_task_that_a_model_cannot_do_is_said_in_every_form(make_record: MakeRecord) -> None:
    other = make_record("a vit", [0, 1], metrics={}, rows={}, notes=(), not_applicable="no map of stride 16").result
    results = [make_record("a", [0, 1]).result, other]
    lines = markdown(results).splitlines()
    assert any(line.startswith("| a vit") and "not applicable" in line for line in lines)
    assert "- a vit: not applicable: no map of stride 16" in lines
    (row,) = (row for row in csv.DictReader(io.StringIO(to_csv(results))) if row["row"] == "a vit")
    assert (row["kind"], row["metric"], row["value"]) == ("not applicable", "no map of stride 16", "")
    assert "not applicable (no map of stride 16)" in record_list(Shelf(results=results, problems=[]))
    assert "<td class='none'>not applicable</td>" in html(results)
    assert "not applicable: no map of stride 16" in html([other])
