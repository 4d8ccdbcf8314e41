"""The plan of docs/house.md and the folders say the same: no file that the plan lacks, no promise that is not marked."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("insloc_hub", "eval/insloc_eval", "server/insloc_server")


def planned(page: str) -> tuple[set[str], set[str]]:
    """Paths of Python files that the tree says are there, and those it has in [brackets]."""
    there: set[str] = set()
    later: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in page.split("## The tree")[1].split("```")[1].splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.split(r" {2,}", line.strip())[0].split(" ")
        folders = [(depth, name) for depth, name in folders if depth < indent]
        above = "".join(name for _, name in folders)
        if names[0].strip("[]").endswith("/"):
            folders.append((indent, names[0].strip("[]")))
        for name in names:
            if name.strip("[]").endswith(".py"):
                (later if name.startswith("[") else there).add(above + name.strip("[]"))
    return there, later


def test_the_reader_of_the_plan_understands_folders_and_brackets():
    page = "## The tree\n```\na/   x\n  b.py c.py   x\n  [d.py]   x\n  e/   x\n    f.py   x\n  g.py   x\n```"
    assert planned(page) == ({"a/b.py", "a/c.py", "a/e/f.py", "a/g.py"}, {"a/d.py"})


def test_the_plan_names_every_module_and_only_marked_ones_are_missing():
    there, later = planned((ROOT / "docs" / "house.md").read_text(encoding="utf-8"))
    modules = {p.relative_to(ROOT).as_posix() for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    modules = {name for name in modules if not name.endswith("__init__.py")} | {"hubconf.py"}
    assert sorted(modules - there) == []
    assert sorted(name for name in there if not (ROOT / name).exists()) == []
    assert sorted(name for name in later if (ROOT / name).exists()) == []
