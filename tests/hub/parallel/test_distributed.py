"""One process or many: the same numbers."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from insloc_hub.errors import BadRun
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.state import new_state
from insloc_hub.pretrain.step import Batch, train_step
from insloc_hub.recipe import Recipe

# Two processes take their halves of the batch of `data`, for two steps.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.state import new_state
from insloc_hub.pretrain.step import Batch, train_step
from insloc_hub.recipe import from_dict

folder = Path(sys.argv[1])
torch.set_num_threads(1)
with distributed.processes(torch.device("cpu")) as device:
    state = new_state(from_dict(json.loads((folder / "recipe.json").read_text())), device)
    data = torch.load(folder / "data.pt", weights_only=True)
    part = distributed.mine(8)
    losses = []
    for step in range(2):
        batch = Batch(**{name: tensor[step][part] for name, tensor in data.items()})
        losses.append(float(train_step(state, batch, 0.05).loss))
    out = {"encoder": state.encoder.state_dict(), "twin": state.twin.state_dict(), "queue": state.queue.state_dict()}
    torch.save({**out, "losses": losses}, folder / f"rank{distributed.rank()}.pt")
    assert distributed.any_of(distributed.rank() == 1, device) and not distributed.any_of(False, device)
"""


def test_one_process_answers_honestly() -> None:
    x = torch.arange(3.0)
    assert (distributed.rank(), distributed.world(), distributed.mine(8)) == (0, 1, slice(0, 8))
    assert distributed.gather(x) is x and torch.equal(distributed.mean(x), x)
    assert distributed.any_of(True, x.device) and not distributed.any_of(False, x.device)
    with distributed.processes(x.device) as device:
        assert device == x.device


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with (
        pytest.raises(BadRun, match=r"torchrun's environment is incomplete .*LOCAL_RANK"),
        distributed.processes(torch.device("cpu")),
    ):
        pass


@pytest.mark.parametrize("variant", ["c4", pytest.param("fpn", marks=pytest.mark.slow)])
def test_two_processes_give_the_numbers_of_one(tiny: Callable[..., Recipe], tmp_path: Path, variant: str) -> None:
    """Weights, twin and queue after two steps; box augmentation, shuffle and gradients cross the processes."""
    levels = {"augment_levels": (False, False, False, True), "level_weights": (1.0,) * 4} if variant == "fpn" else {}
    recipe = tiny(variant=variant, bn_groups=2, key_momentum=0.9, **levels)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 2, 8, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 25 + torch.rand(2, 2, 8, 2, generator=generator) * 15], dim=3)
    views = torch.randn(2, 2, 8, 3, 64, 64, generator=generator)
    data = {"query": views[:, 0], "query_boxes": boxes[:, 0], "key": views[:, 1], "key_boxes": boxes[:, 1]}
    state = new_state(recipe, torch.device("cpu"))
    losses = [
        float(train_step(state, Batch(**{name: tensor[step] for name, tensor in data.items()}), 0.05).loss) for step in range(2)
    ]

    torch.save(data, tmp_path / "data.pt")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.as_dict()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first["losses"] == second["losses"] == pytest.approx(losses, rel=1e-4)
    for name, module in state.modules.items():
        for key, tensor in module.state_dict().items():
            if "running" in key or "num_batches" in key:  # each process has its own
                continue
            assert torch.allclose(first[name][key], tensor, atol=2e-4), (name, key)
            assert torch.equal(first[name][key], second[name][key]), (name, key)
