"""Save and restore a detector's training, bit for bit. One file, FOLDER/detector.pt, replaced whole.

No generator is saved: what a step draws comes from (seed, step).
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from insloc_hub.errors import BadRun
from insloc_hub.files import write_whole
from insloc_hub.parallel import distributed
from insloc_hub.shapes import Float

SCHEMA = 1
FILE = "detector.pt"


def save_training(
    folder: Path,
    identity: str,
    detector: nn.Module,
    optimizer: torch.optim.Optimizer,
    curve: Float[Tensor, "steps losses"],
    finished: bool,
) -> None:
    """Write FOLDER/detector.pt after len(curve) steps, from the first process. CannotWrite: the one before is then whole."""
    if distributed.rank():
        return
    content = {
        "schema": SCHEMA,
        "identity": identity,
        "detector": detector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "curve": curve,
        "finished": finished,
    }
    write_whole(folder / FILE, lambda part: torch.save(content, part))


def restore_training(
    folder: Path, identity: str, detector: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, bool] | None:
    """Put FOLDER/detector.pt into both; its losses [steps losses] and whether it had ended. None: nothing there.

    BadRun: damaged, of a newer version, or of another model, protocol, data or seed.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    content = _read(path)
    if content["schema"] > SCHEMA:
        raise BadRun(f"{path}: schema {content['schema']}; this insloc_eval reads up to {SCHEMA}. Install a newer one")
    if content["identity"] != identity:
        raise BadRun(f"{path} belongs to another model, protocol, data or seed. Delete {folder}, or choose another folder")
    try:
        detector.load_state_dict(content["detector"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise BadRun(
            f"{path} does not fit this detector ({str(error).splitlines()[0]}). Delete {folder} and start again"
        ) from None
    return content["curve"], bool(content["finished"])


def trained_weights(folder: Path) -> tuple[dict[str, Tensor], bool]:
    """The detector's tensors in FOLDER/detector.pt, and whether its training had ended. BadRun: none there, or damaged."""
    path = folder / FILE
    if not path.is_file():
        raise BadRun(f"{path}: no such file; a detector's training lies beside its record, in the folder of its name")
    content = _read(path)
    return content["detector"], bool(content["finished"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
        raise BadRun(f"{path}: cut short or damaged. Delete it, and training starts again") from None
    if not isinstance(content, dict) or "identity" not in content:
        raise BadRun(f"{path}: not a detector's training")
    return content
