"""What the hub's tests share: frozen numbers, a tiny recipe, a folder of images, one finished run."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from registry import Registry, registry

from insloc_hub.recipe import Recipe, at_batch, at_canvas
from insloc_hub.recipes import insloc_c4_small

ASSETS = Path(__file__).resolve().parents[1] / "assets"


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and lose a lot where something else wants the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Reads a file of tests/assets by its name."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(ASSETS / f"{name}.npz") as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """A recipe that trains in a blink: 64 px canvas, 8 images in 2 groups, 32 keys; with changes."""

    def recipe(**changes: object) -> Recipe:
        small = at_batch(at_canvas(insloc_c4_small(), 64), 8, bn_groups=2, queue=32, arch="resnet10t")
        return dataclasses.replace(small, **{"epochs": 2, **changes})

    return recipe


@pytest.fixture(scope="session")
def photos(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of 24 images of the world, of several sizes; read it, don't write."""
    folder = tmp_path_factory.mktemp("photos")
    for number, path in enumerate(sorted((world / "train").rglob("*.jpg"))[::3]):
        shutil.copy(path, folder / f"{number:02d}.jpg")
    return folder


@pytest.fixture(scope="session")
def start(world: Path, tiny: Callable[..., Recipe]) -> Callable[..., object]:
    """Six steps into a folder; `resume`, `stop` after a step, `data`, and changes of the recipe."""
    from insloc_hub.pretrain.options import RunOptions
    from insloc_hub.pretrain.run import pretrain

    def run(
        out: Path,
        *,
        resume: bool = False,
        stop: int | None = None,
        steps: int | None = 6,
        data: Path | None = None,
        device: str = "cpu",
        **changes: object,
    ) -> object:
        options = RunOptions(data=data or world / "train", run=out, steps=steps, resume=resume, device=device)
        recipe = None if resume else tiny(**changes)
        return pretrain(recipe, options, lambda step: stop is not None and step >= stop)

    return run


@pytest.fixture(scope="package")
def finished_run(photos: Path, tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A resnet18 run of 2 steps with its RUN/model; copy it before changing it."""
    from insloc_hub.pretrain.options import RunOptions
    from insloc_hub.pretrain.run import pretrain
    from insloc_hub.release.export import export_run

    run = tmp_path_factory.mktemp("runs") / "finished"
    pretrain(tiny(arch="resnet18"), RunOptions(data=photos, run=run, steps=2))
    export_run(run)
    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry on loopback that the real client of this process talks to, as if HF_ENDPOINT had named it at its import.

    With a token in HF_TOKEN, a cache and an INSLOC_HOME of its own.
    """
    from huggingface_hub import constants

    with registry() as made:
        for name, value in {
            "ENDPOINT": made.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": made.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # the registry stores as LFS does (compat.md 3.6)
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", made.token)
        monkeypatch.setenv("INSLOC_HOME", str(tmp_path / "insloc-home"))
        yield made
