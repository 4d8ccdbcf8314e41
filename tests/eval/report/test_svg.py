"""The two pictures: lengths and colours are those of the numbers."""

import re

from insloc_eval.report.svg import CELL, WIDTH, bar, heat


def test_a_full_bar_is_as_wide_as_the_frame_and_its_ends_are_marked() -> None:
    text = bar(1.0, 0.5, 1.0, 1.0)
    assert f"<rect class='value' width='{WIDTH:.1f}'" in text
    assert [float(x) for x in re.findall(r"d='M([0-9.]+) 3", text)] == [WIDTH / 2, WIDTH]


def test_a_map_has_a_square_for_each_value_row_by_row() -> None:
    text = heat([[0.0, 0.5, 1.0], [2.0, -1.0, 0.1]])
    assert re.findall(r">([0-9.-]+)</text>", text) == ["0.00", "0.50", "1.00", "2.00", "-1.00", "0.10"]
    places = re.findall(r"<rect x='(\d+)' y='(\d+)'", text)
    assert places == [(str(x * CELL), str(y * CELL)) for y in range(2) for x in range(3)]
    fills = re.findall(r"fill='(rgb[^']+)'", text)
    assert fills[0] == fills[4] == "rgb(255,255,255)" and fills[2] == fills[3] == "rgb(20,66,130)"
    assert heat([]).startswith("<svg width='0'")
