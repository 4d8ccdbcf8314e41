"""Short runs on the world's pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_hub.pretrain.loop import Finish
from insloc_hub.recipes import Recipe

Start = Callable[..., Finish]


@pytest.fixture(scope="session")
def start(world: Path, tiny: Callable[..., Recipe]) -> Start:
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
        **changes: object,
    ) -> Finish:
        options = RunOptions(data=data or world / "train", run=out, steps=steps, resume=resume)
        recipe = None if resume else tiny(**changes)
        return pretrain(recipe, options, lambda step: stop is not None and step >= stop)

    return run


@pytest.fixture(scope="package")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A run of 6 steps without a break; copy it before changing it."""
    import torch

    run = tmp_path_factory.mktemp("undisturbed") / "run"
    torch.manual_seed(5)
    start(run)
    return run
