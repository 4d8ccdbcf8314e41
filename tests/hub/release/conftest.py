"""What the tests of publishing share: a run of timm's smallest ResNet, and `insloc publish` of it in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.run import pretrain
from insloc_hub.recipe import Recipe
from insloc_hub.release.export import export_run
from insloc_hub.release.hub_folder import Wish
from insloc_hub.release.publish import publish

REPO = "lab/test_resnet.insloc_c4_photos"
COMMAND = f"insloc publish runs/first --repo {REPO}"

Push = Callable[..., list[str]]


@pytest.fixture(scope="package")
def small_run(photos: Path, tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A run of 2 steps of timm's smallest ResNet with its RUN/model; copy it before changing it."""
    run = tmp_path_factory.mktemp("publish") / "run"
    pretrain(tiny(arch="test_resnet"), RunOptions(data=photos, run=run, steps=2))
    export_run(run)
    return run


@pytest.fixture
def push(small_run: Path, tmp_path: Path) -> Push:
    """`insloc publish` of a finished run: the lines it says."""

    def run(source: Path = small_run, repo: str = REPO, **wishes: Any) -> list[str]:
        said: list[str] = []
        publish(Wish(source=source, repo=repo, out=tmp_path / "published", **wishes), COMMAND, said.append)
        return said

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "published" / REPO
