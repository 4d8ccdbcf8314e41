"""A Python environment that has the packages which hubconf.py declares, and what those require, and nothing else."""

import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def closure(names: list[str]) -> set[str]:
    """The distributions that these names need on this machine, without extras, names as the metadata writes them."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        dist = metadata.distribution(waiting.pop())
        if dist.metadata["Name"] not in found:
            found[dist.metadata["Name"]] = dist
            needed = [Requirement(text) for text in dist.requires or ()]
            waiting += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return set(found)


def bare_python(folder: Path, names: list[str]) -> Path:
    """Make the environment in `folder` by links to what is installed here; its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for name in closure(names):
        dist = metadata.distribution(name)
        for top in {file.parts[0] for file in dist.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(dist.locate_file(top))))
    return folder / "bin" / "python"
