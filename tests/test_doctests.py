"""The examples in docstrings run, all of them, in the three packages and in the tests' own tools."""

import ast
import doctest
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"insloc_hub": ROOT, "insloc_eval": ROOT / "eval", "insloc_server": ROOT / "server"}
TOOLS = [ROOT / "tests" / "floor.py"]


def with_examples() -> list[Path]:
    modules = [path for package, folder in FOLDERS.items() for path in (folder / package).rglob("*.py")]
    return sorted(path for path in [*modules, *TOOLS] if ">>>" in path.read_text(encoding="utf-8"))


def load(path: Path) -> ModuleType:
    for package, folder in FOLDERS.items():
        if path.is_relative_to(folder / package):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            return importlib.import_module(name.removesuffix(".__init__"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples(path: Path, names: dict[str, object]) -> list[doctest.DocTest]:
    """One test for each docstring with an example.

    Read from the source, as doctest's own finder skips functions wrapped by another module, which the shape checks do.
    """
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text and ">>>" in text:
            name = f"{path.name}:{getattr(node, 'name', 'module')}"
            line = 0 if isinstance(node, ast.Module) else node.lineno
            found.append(doctest.DocTestParser().get_doctest(text, dict(names), name, str(path), line))
    return found


@pytest.mark.parametrize("path", with_examples(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_a_module_give_what_they_show(path: Path) -> None:
    found = examples(path, vars(load(path)))
    assert sum(len(test.examples) for test in found) > 0  # a prompt outside a docstring is no example
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_a_wrong_example_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text('def two():\n    """Two.\n\n    >>> two()\n    3\n    """\n    return 2\n')
    (test,) = examples(path, vars(load(path)))
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=lambda text: None)
    assert (runner.failures, runner.tries) == (1, 1)
