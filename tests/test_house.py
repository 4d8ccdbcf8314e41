"""The rules of the house, as far as a program can see them: sizes, names, who reads argv and the environment.

Every rule is tried on a sample that breaks it and one that keeps it, so that it can't rot into always agreeing.
"""

import ast
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "insloc_hub": ROOT / "insloc_hub",
    "insloc_eval": ROOT / "eval" / "insloc_eval",
    "insloc_server": ROOT / "server" / "insloc_server",
}
MOST_LINES = 350
LONG_DATA_TABLES: set[str] = set()  # modules that are one table, relative to the root
MOST_FUNCTION_LINES = 60
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "base.py", "core.py"}
TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS: dict[str, str] = PYPROJECT["project"]["scripts"]
HEAVY = ("torch", "torchvision", "timm", "scipy", "matplotlib")

Rule = Callable[[str, str], list[str]]
"""(path relative to the root, source) -> what breaks the rule, a line each."""


def module_paths() -> list[Path]:
    return sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))


def nodes(source: str) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(source))


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain or name, "" for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def too_long(path: str, source: str) -> list[str]:
    count = len(source.splitlines())
    return [f"{count} lines"] if count > MOST_LINES and path not in LONG_DATA_TABLES else []


def long_functions(path: str, source: str) -> list[str]:
    found = [node for node in nodes(source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in found]
    return [f"{name}: {lines} lines" for name, lines in sizes if lines > MOST_FUNCTION_LINES]


def forbidden_names(path: str, source: str) -> list[str]:
    return [path] if Path(path).name in FORBIDDEN_NAMES else []


def no_docstring(path: str, source: str) -> list[str]:
    return [] if ast.get_docstring(ast.parse(source)) else ["no module docstring"]


def bare_excepts(path: str, source: str) -> list[str]:
    return [f"line {n.lineno}" for n in nodes(source) if isinstance(n, ast.ExceptHandler) and n.type is None]


def argv_readers(path: str, source: str) -> list[str]:
    """Only cli.py reads the command line, and only cli.py ends the process; flags.py may say what a command takes."""
    if Path(path).name == "cli.py":
        return []
    found = []
    source = source.replace("import tyro", "") if Path(path).name == "flags.py" else source
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and dotted(node) in {"sys.argv", "sys.exit", "os._exit"}:
            found.append(dotted(node))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in {"argparse", "tyro", "optparse"}]
        elif isinstance(node, ast.ImportFrom) and node.module in {"argparse", "tyro", "optparse"}:
            found.append(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            found += [f"sys.{alias.name}" for alias in node.names if alias.name in {"argv", "exit"}]
        elif isinstance(node, ast.Name) and node.id == "SystemExit":
            found.append(node.id)
    return found


def torchrun_readers(path: str, source: str) -> list[str]:
    if path == "insloc_hub/parallel/distributed.py":
        return []
    return [node.value for node in nodes(source) if isinstance(node, ast.Constant) and node.value in TORCHRUN]


def server_environment_readers(path: str, source: str) -> list[str]:
    """In the server, only settings.py reads the environment."""
    if not path.startswith("server/") or Path(path).name == "settings.py":
        return []
    return [name for node in nodes(source) if (name := dotted(node)) in {"os.environ", "os.getenv"}]


FORTY = "\n".join(f"    a{i} = {i}" for i in range(MOST_FUNCTION_LINES + 1))
TRY = "try:\n    pass\nexcept {}:\n    pass\n"

RULES: dict[Rule, tuple[tuple[str, str], tuple[str, str]]] = {
    too_long: (("insloc_hub/a.py", "a = 1\n" * 351), ("insloc_hub/a.py", "a = 1\n" * 350)),
    long_functions: (("insloc_hub/a.py", f"def f():\n{FORTY}"), ("insloc_hub/a.py", "def f():\n    pass")),
    forbidden_names: (("eval/insloc_eval/utils.py", ""), ("eval/insloc_eval/stats.py", "")),
    no_docstring: (("insloc_hub/a.py", "a = 'text'"), ("insloc_hub/a.py", "'''What.'''")),
    bare_excepts: (("insloc_hub/a.py", TRY.format("")), ("insloc_hub/a.py", TRY.format("OSError"))),
    argv_readers: (("insloc_hub/a.py", "import sys\nsys.argv"), ("insloc_hub/cli.py", "import sys\nsys.argv")),
    torchrun_readers: (("insloc_hub/a.py", "e['RANK']"), ("insloc_hub/parallel/distributed.py", "e['RANK']")),
    server_environment_readers: (
        ("server/insloc_server/app.py", "import os\nos.environ['A']"),
        ("server/insloc_server/settings.py", "import os\nos.environ['A']"),
    ),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    named = [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in module_paths()]
    assert {name: found for name, source in named if (found := rule(name, source))} == {}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_tells_a_breach_from_what_is_allowed(rule: Rule) -> None:
    breach, allowed = RULES[rule]
    assert rule(*breach)
    assert rule(*allowed) == []


@pytest.mark.parametrize("line", ["import argparse", "from sys import argv", "import tyro", "raise SystemExit(1)"])
def test_other_ways_to_the_command_line_are_seen_too(line: str) -> None:
    assert argv_readers("insloc_hub/a.py", line)


def test_the_rules_look_at_all_three_packages() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in module_paths()}
    assert names == {"insloc_hub", "eval", "server"}
    assert {folder.name for folder in (ROOT / "eval").iterdir() if list(folder.glob("*.py"))} == {"insloc_eval"}
    assert {folder.name for folder in (ROOT / "server").iterdir() if list(folder.glob("*.py"))} == {"insloc_server"}


def test_every_table_that_may_be_long_is_there_and_is_long() -> None:
    for name in LONG_DATA_TABLES:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) > MOST_LINES


def test_there_are_three_commands() -> None:
    assert set(COMMANDS) == {"insloc", "insloc-eval", "insloc-server"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_answers_at_once_without_torch(command: str, tmp_path: Path) -> None:
    module, function = COMMANDS[command].split(":")
    script = f"""
import sys
sys.argv = [{command!r}, "--help"]
from {module} import {function} as main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(code or (f"imported for --help: {{loaded}}" if loaded else 0))
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    took = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower() and command in done.stdout
    assert took < 5  # about one second when nothing else runs


@pytest.mark.parametrize("module", sorted(PACKAGES))
def test_importing_a_package_imports_no_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""


def test_the_citation_names_the_paper_and_the_version_of_the_package() -> None:
    from insloc_hub import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert (citation["title"], citation["version"]) == (PYPROJECT["project"]["name"], __version__)
    assert citation["license"] == PYPROJECT["project"]["license"]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Yang", "Wu", "Zhou", "Lin"]
    assert (paper["start"], paper["end"], paper["year"]) == (3987, 3996, 2021)


def test_the_changelog_has_the_version_of_the_package() -> None:
    from insloc_hub import __version__

    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
