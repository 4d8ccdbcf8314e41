"""One grammar of model names for the whole house (contracts.md 1). Torch-free: a wrong spec is refused at once.

random:ARCH[@seed]      fresh weights, timm's own initialisation
ARCH[.tag]              timm's model with its pretrained weights
hf-hub:ORG/NAME[@rev]   a timm repository of the Hub
local-dir:PATH          a folder with config.json and model.safetensors
insloc_ARCH.TAG         a card of ours: zoo/ of the clone, $INSLOC_HOME/zoo, Hub
PATH                    an exported folder, a run folder, or the model.safetensors of one
FILE                    anybody's ResNet weights, told by their content (docs/convert.md)
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from insloc_hub.errors import BadSpec

Kind = Literal["random", "timm", "hf-hub", "folder", "card", "checkpoint"]
GRAMMAR = "random:ARCH[@seed], ARCH[.tag], hf-hub:ORG/NAME[@rev], local-dir:PATH, a card (insloc_ARCH.TAG) or a path"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A model's name, taken apart."""

    text: str
    """As the user wrote it."""
    kind: Kind
    name: str
    """Architecture, repository with its revision, folder, card, or weights file."""
    seed: int = 0
    """Of `random` only."""


def parse_spec(text: str) -> Spec:
    """Take `text` apart. BadSpec: it fits no form, or the folder it names is not there.

    >>> parse_spec("random:resnet18@3").seed
    3
    """
    if not text.removeprefix("local-dir:"):
        raise BadSpec(f"model {text!r} is none of: {GRAMMAR}")  # Path("") would be the current folder
    if text.startswith("random:"):
        return _random(text)
    if text.startswith(("hf-hub:", "hf_hub:")):
        return _hub(text)
    if text.startswith("local-dir:"):
        return Spec(text=text, kind="folder", name=str(export_folder(Path(text.removeprefix("local-dir:")))))
    if ":" in text and not os.path.exists(text):
        raise BadSpec(f"model {text!r}: unknown prefix {text.split(':')[0] + ':'!r}. There are {GRAMMAR}")
    if os.sep in text or os.path.exists(text) or text in (".", "..") or text.endswith(".safetensors"):
        bare = _bare_file(Path(text).expanduser())
        return bare or Spec(text=text, kind="folder", name=str(export_folder(Path(text))))
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_.-]+)?", text):
        raise BadSpec(f"model {text!r} is none of: {GRAMMAR}")
    return Spec(text=text, kind="card" if text.startswith("insloc_") else "timm", name=text)


def export_folder(path: Path) -> Path:
    """The exported folder meant by `path`: itself, its model/ (a run), or the folder of a file. BadSpec: none."""
    path = path.expanduser()
    if not os.path.exists(path):  # Path.exists() raises for a name too long
        raise BadSpec(f"model {str(path)!r}: no such folder or file")
    if path.is_file():
        path = path.parent
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if (path / "run.json").is_file():
        raise BadSpec(f"{path}: this run has not exported its model yet; finish it (--resume) or: insloc export {path}")
    raise BadSpec(f"{path}: no config.json in this folder nor in its model/, so it is no exported model")


def _bare_file(path: Path) -> Spec | None:
    """The spec of a weights file without a config beside it, whose content has to say what it is."""
    if not os.path.isfile(path) or (path.name == "model.safetensors" and (path.parent / "config.json").is_file()):
        return None
    return Spec(text=str(path), kind="checkpoint", name=str(path))


def _random(text: str) -> Spec:
    match = re.fullmatch(r"random:([A-Za-z0-9_]+)(?:@(\d+))?", text)
    if not match:
        raise BadSpec(f"model {text!r}: a random model is random:ARCH or random:ARCH@SEED, e.g. random:resnet18@1")
    return Spec(text=text, kind="random", name=match[1], seed=int(match[2] or 0))


def _hub(text: str) -> Spec:
    name = text.split(":", 1)[1]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        raise BadSpec(f"model {text!r}: a Hub model is hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION")
    return Spec(text=text, kind="hf-hub", name=name)
