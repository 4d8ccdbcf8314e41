"""Reports: pure functions of records. They compute nothing; deleting and rebuilding one changes nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from insloc_eval.report.csv import csv
from insloc_eval.report.markdown import markdown
from insloc_hub.errors import InslocError
from insloc_hub.files import write_text
from insloc_hub.records import Result

FORMATS: dict[str, Callable[[Sequence[Result]], str]] = {".md": markdown, ".csv": csv}


def format_of(out: Path) -> Callable[[Sequence[Result]], str]:
    """The report that a file name asks for. InslocError: none."""
    if out.suffix.lower() not in FORMATS:
        raise InslocError(f"--out {out}: its ending must be one of {', '.join(FORMATS)}")
    return FORMATS[out.suffix.lower()]


def write_report(results: Sequence[Result], out: Path) -> None:
    """Write the records as `out`'s ending says. InslocError, CannotWrite."""
    write_text(out, format_of(out)(results))
