"""The pretrained neck and box head that belong to a model, under the detector's names (paper.md A.7).

The converter's table of torchvision's names is used, so that what a detector starts from is what `insloc convert` writes.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from insloc_eval.detection.network.heads import EXTRA_NORM
from insloc_hub.checkpoints.families.torchvision import DETECTOR
from insloc_hub.checkpoints.folder import PARTS_FILE
from insloc_hub.checkpoints.names import part_of
from insloc_hub.checkpoints.read import read_checkpoint
from insloc_hub.checkpoints.verify import load
from insloc_hub.errors import BadCheckpoint, InslocError
from insloc_hub.files import sha256_file
from insloc_hub.models.create import folder_of
from insloc_hub.models.spec import parse_spec
from insloc_hub.models.zoo import read_config

STARTS = {"trunk": (), "trunk+fpn": ("neck.",), "trunk+fpn+head": ("neck.", "head.")}
"""Beginnings of our names of what each choice loads besides the trunk."""
PLACES = {"trunk": (), "trunk+fpn": ("backbone.fpn.",), "trunk+fpn+head": ("backbone.fpn.", "roi_heads.box_head.")}
"""Beginnings of the detector's names of what each choice fills."""


def read_parts(spec: str) -> dict[str, Tensor]:
    """Neck and box head that belong to a model spec, by our names (neck.*, head.*).

    InslocError: it has none. BadCheckpoint: damaged, or not what its config.json says. BadSpec: the spec can't be had.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "checkpoint":
        tensors = load(read_checkpoint(Path(parsed.name))).tensors
        found = {name: tensor for name, tensor in tensors.items() if part_of(name) != "trunk"}
    else:
        folder = folder_of(parsed)
        found = {} if folder is None else _of_folder(folder)
    if not found:
        raise InslocError(
            f"{spec} has no pretrained neck or box head ({PARTS_FILE}) to start from: InsLoc-FPN trains them, InsLoc-C4 and "
            "others do not. Use --init-parts trunk"
        )
    return found


def _of_folder(folder: Path) -> dict[str, Tensor]:
    path = folder / PARTS_FILE
    said = read_config(folder).get("insloc", {}).get("parts", {}).get("fpn_head")
    if said is None and not path.is_file():
        return {}
    if not path.is_file():
        raise BadCheckpoint(path, "is missing, though config.json describes it; fetch or export the model again")
    if said is not None and said["sha256"] != sha256_file(path):
        raise BadCheckpoint(path, "has another sha256 than config.json says; fetch or export the model again")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(path, f"can't be read ({error}); fetch or export the model again") from None
    return tensors


def load_parts(detector: nn.Module, parts: Mapping[str, Tensor], which: str) -> tuple[str, ...]:
    """Copy what `which` (trunk+fpn, ...) names into an FPN detector; the names that were filled. BadCheckpoint: not whole.

    The released head's second fc has no place in a detector and stays behind.
    """
    named = {DETECTOR.spell(ours): tensor for ours, tensor in parts.items() if ours.startswith(STARTS[which])}
    found = {theirs: tensor for theirs, tensor in named.items() if theirs is not None}
    state = detector.state_dict()
    needed = {name for name in state if name.startswith(PLACES[which]) and EXTRA_NORM not in name}
    wrong = sorted(needed ^ set(found))
    if wrong:
        problem = "is missing" if wrong[0] in needed else "is in no FPN detector"
        raise BadCheckpoint(PARTS_FILE, f"{wrong[0]} {problem}, so these are parts of another network; use --init-parts trunk")
    for name, tensor in found.items():
        if tensor.shape != state[name].shape:
            shapes = f"{list(tensor.shape)}, the detector's {list(state[name].shape)}"
            raise BadCheckpoint(PARTS_FILE, f"{name} is {shapes}: the parts of another trunk; use --init-parts trunk")
    detector.load_state_dict(found, strict=False)
    return tuple(sorted(found))
