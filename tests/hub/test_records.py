"""The environment in a record: versions, machine and commit; nobody's folders."""

import subprocess
from pathlib import Path

from insloc_hub.records import checkout, environment


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_of_a_checkout_is_known_and_whether_it_was_changed(tmp_path: Path) -> None:
    package = tmp_path / "insloc_hub"
    package.mkdir()
    assert checkout(package) == ""  # an installed package is no checkout
    checkout.cache_clear()
    (package / "a.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "x")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert checkout(package) == commit
    checkout.cache_clear()
    (tmp_path / "result.json").write_text("{}")  # an untracked file is no change of the code
    assert checkout(package) == commit
    checkout.cache_clear()
    (package / "a.py").write_text("2")
    assert checkout(package) == commit + "+changes"
    checkout.cache_clear()


def test_the_environment_names_versions_and_machine_and_no_folder() -> None:
    found = environment()
    assert {"insloc_hub", "torch", "timm", "numpy", "python", "machine", "system"} <= set(found)
    assert not any(str(Path.home()) in value or "/" in value for value in found.values())
