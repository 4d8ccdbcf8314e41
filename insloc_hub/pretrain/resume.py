"""Save and restore all of a run, bit for bit. One file, RUN/checkpoint.pt, replaced whole."""

import pickle
from pathlib import Path
from typing import Any

import torch

from insloc_hub.errors import BadRun
from insloc_hub.files import write_whole
from insloc_hub.parallel import distributed
from insloc_hub.pretrain.state import LabelState, State
from insloc_hub.recipe import from_dict

SCHEMA = 1
FILE = "checkpoint.pt"


def save_state(state: State | LabelState, data_fingerprint: str, run: Path) -> None:
    """Write RUN/checkpoint.pt, from the first process. CannotWrite: the one before is then still whole."""
    if distributed.rank():
        return
    content = {
        "schema": SCHEMA,
        "recipe": state.recipe.as_dict(),
        "data": data_fingerprint,
        "step": state.step,
        **{name: module.state_dict() for name, module in state.modules.items()},
        # Parameters that no gradient ever reached: the optimizer keeps no momentum for them.
        "untrained": [name for name, p in state.encoder.named_parameters() if p not in state.optimizer.state],
        "optimizer": state.optimizer.state_dict(),
        # Nothing here draws from the global generator, but an architecture with dropout does.
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    write_whole(run / FILE, lambda part: torch.save(content, part))


def read_checkpoint(run: Path) -> dict[str, Any]:
    """RUN/checkpoint.pt as it was saved, on the CPU. BadRun: missing, cut short, not ours, or of a newer version."""
    path = run / FILE
    if not path.is_file():
        raise BadRun(
            f"{run}: no {FILE} here, so nothing to resume or to export (a run saves its first after five minutes, or when "
            "it ends or is stopped). Start it without --resume"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
        raise BadRun(
            f"{path}: cut short or damaged, so the run can't go on from it. Restore the file from a copy, "
            f"or delete {run} and start again"
        ) from None
    if not isinstance(content, dict) or "schema" not in content:
        raise BadRun(f"{path}: not a checkpoint of insloc pretrain")
    if content["schema"] > SCHEMA:
        raise BadRun(f"{path}: schema {content['schema']}; this insloc_hub reads up to {SCHEMA}. Install a newer one")
    return content


def restore_state(state: State | LabelState, content: dict[str, Any], data_fingerprint: str) -> None:
    """Put a checkpoint into a fresh state. BadRun: it belongs to another recipe or other data."""
    if from_dict(content["recipe"]) != state.recipe:
        raise BadRun("the checkpoint was made by another recipe than RUN/run.json says; one of the two was changed by hand")
    if content["data"] != data_fingerprint:
        raise BadRun(
            "the images are not those the run was started with (names, sizes or readability differ). "
            "Give the same --data, or start a new run"
        )
    for name, module in state.modules.items():
        module.load_state_dict(content[name])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step = int(content["step"])
    torch.set_rng_state(content["random"])
    if content["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["random_cuda"])
