"""A run that nothing disturbed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_hub.pretrain.loop import Finish

Start = Callable[..., Finish]


@pytest.fixture(scope="package")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A run of 6 steps without a break; copy it before changing it."""
    import torch

    run = tmp_path_factory.mktemp("undisturbed") / "run"
    torch.manual_seed(5)
    start(run)
    return run
