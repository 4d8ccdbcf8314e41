"""Reports: pure functions of records. They compute nothing; deleting and rebuilding one changes nothing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from insloc_eval.report.csv import csv
from insloc_eval.report.html import html
from insloc_eval.report.markdown import markdown
from insloc_hub.errors import InslocError
from insloc_hub.files import write_text
from insloc_hub.records import Result

FORMATS: dict[str, Callable[[Sequence[Result]], str]] = {".md": markdown, ".csv": csv, ".html": html}


def check_ending(out: Path, wanted: str | None = None) -> None:
    """InslocError: no report has this file's ending, or it is not the `wanted` one."""
    allowed = [wanted] if wanted else list(FORMATS)
    if out.suffix.lower() not in allowed:
        raise InslocError(f"{out}: its ending must be {' or '.join(allowed)}")


def write_report(results: Sequence[Result], out: Path, pictures: Mapping[str, bytes] | None = None) -> None:
    """Write the records as `out`'s ending says; a page shows the `pictures` by record id. InslocError, CannotWrite."""
    check_ending(out)
    ending = out.suffix.lower()
    write_text(out, html(results, pictures) if ending == ".html" else FORMATS[ending](results))
