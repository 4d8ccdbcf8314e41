"""The pages tell the truth: Python blocks run, commands are the commands there are, links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages ("" = none named)."""
    found: list[str] = []
    inside: str | None = None
    for line in page.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("```"):
            inside = line[3:].strip() if inside is None else None
            if inside in languages:
                found.append("")
        elif inside in languages:
            found[-1] += line
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory, exported_run):
    """A folder in which the pages' names mean something: runs/first, demo/run, photo.jpg."""
    place = tmp_path_factory.mktemp("pages")
    for name in ("runs/first", "demo/run"):
        shutil.copytree(exported_run, place / name)
    Image.new("RGB", (120, 90), (40, 90, 60)).save(place / "photo.jpg")
    return place


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, place):
    script = "\n".join(blocks(page, "python")).replace('torch.hub.load(".",', f"torch.hub.load({str(ROOT)!r},")
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "", "bash", "sh"):
            text = block.replace("\\\n", " ")
            found += [(page.name, line) for line in text.splitlines() if re.match(r"(insloc|insloc-eval|insloc-server) ", line)]
    return found


def test_the_pages_show_commands():
    assert len(commands()) >= 4


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_flag_of_a_command_is_in_its_help(page, line):
    words = shlex.split(line, comments=True)
    sub = [] if words[0] == "insloc-server" or words[1].startswith("-") else [words[1]]
    program = Path(sys.executable).parent / words[0]
    help_text = subprocess.run([program, *sub, "--help"], capture_output=True, text=True, timeout=60).stdout
    known = set(re.findall(r"--[a-z][a-z-]*", help_text))
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_inside_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
