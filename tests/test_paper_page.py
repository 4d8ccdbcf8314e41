"""docs/paper.md: every name on it exists, every constant of the method is on it."""

import importlib
import re
from pathlib import Path

import pytest

from insloc_hub import paper

PAGE = (Path(__file__).parents[1] / "docs" / "paper.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(insloc_(?:hub|eval)(?:\.\w+)+)`", PAGE)))
CONSTANTS = {name for name in vars(paper) if name.isupper()}


def test_the_page_names_much_of_the_code() -> None:
    assert len(NAMES) > 40


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_page_leads_to_something(name: str) -> None:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        assert callable(found)
        return
    raise AssertionError(name)


def test_every_constant_of_the_method_is_on_the_page_and_no_other() -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", PAGE))
    assert CONSTANTS - named == set() and named - CONSTANTS == set()
