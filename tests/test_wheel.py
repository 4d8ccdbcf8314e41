"""The wheel: what is in the tree is in it, nothing else is, and it works far from the tree."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"insloc_hub": "insloc_hub", "insloc_eval": "eval/insloc_eval", "insloc_server": "server/insloc_server"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Standard output; a failure shows both streams. Nothing of this tree is on the command's path."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build/ folder left in the tree would leak deleted modules into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]):
        shutil.copy(ROOT / name, source / name)
    for folder in PACKAGES.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", "dist"]
    if int(version("setuptools").split(".")[0]) >= 77:
        command.append("--no-isolation")  # else the build fetches its own setuptools
    run(command, source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, and with our dependencies but not our editable install."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], folder)
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    # Written after the install, or pip would find the editable package there. A folder named in a .pth file is searched
    # for modules but its own .pth files are not read, and those are what an editable install consists of.
    places = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(site) / "dependencies.pth").write_text("\n".join(places) + "\n")
    return bin_folder


def test_the_wheel_holds_the_files_of_the_tree_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == set(PACKAGES)  # none of eval, server, tests, benchmarks


def test_every_package_in_the_wheel_is_typed(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_installed_packages_are_those_of_the_wheel(elsewhere: Path, tmp_path: Path) -> None:
    script = f"import {', '.join(PACKAGES)}\nfor package in ({', '.join(PACKAGES)}): print(package.__file__)"
    files = run([elsewhere / "python", "-c", script], tmp_path).split()
    assert len(files) == len(PACKAGES) and all(Path(name).is_relative_to(elsewhere.parent) for name in files)


@pytest.mark.parametrize("command", sorted(PYPROJECT["project"]["scripts"]))
def test_an_installed_command_shows_its_help(elsewhere: Path, tmp_path: Path, command: str) -> None:
    shown = run([elsewhere / command, "--help"], tmp_path)
    assert "usage" in shown.lower() and command in shown


def test_the_installed_package_lists_models(elsewhere: Path, tmp_path: Path) -> None:
    assert "resnet" in run([elsewhere / "insloc", "models"], tmp_path)
    assert list(tmp_path.iterdir()) == []
