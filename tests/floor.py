"""Print pip constraints that hold every runtime dependency at its declared lower bound.

`python tests/floor.py > floor.txt; pip install --constraint floor.txt .`, as `make test-floor` does: a lower bound that
nobody installs is a guess. It runs in a bare environment, hence the standard library only.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*\])?\s*(?P<bounds>[^;]*?)\s*(?P<marker>;.*)?")


def lowest(requirement: str) -> str:
    """The constraint for one requirement: the series that its lower bound names. ValueError: it has no lower bound.

    >>> lowest("torch>=2.6")
    'torch==2.6.*'
    >>> lowest("huggingface_hub>=1.5,<3")
    'huggingface_hub==1.5.*'
    >>> lowest("uvicorn[standard] <1, >= 0.34.1 ; python_version > '3.10'")
    "uvicorn==0.34.1.* ; python_version > '3.10'"
    >>> lowest("numpy<3")
    Traceback (most recent call last):
    ValueError: 'numpy<3' has no lower bound (>=)
    """
    parts = REQUIREMENT.fullmatch(requirement.strip())
    bound = re.search(r">=\s*([\w.]+)", parts["bounds"]) if parts else None
    if not parts or not bound:
        raise ValueError(f"{requirement!r} has no lower bound (>=)")
    # Extras are not allowed in a constraints file; markers are.
    return f"{parts['name']}=={bound[1]}.*" + (f" {parts['marker']}" if parts["marker"] else "")


def main() -> None:
    """Write the constraints to standard output."""
    dependencies = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    sys.stdout.write("".join(lowest(requirement) + "\n" for requirement in dependencies))


if __name__ == "__main__":
    main()
