"""Any weights file -> tensors under the file's own names, and facts about it. The form is told from the first bytes.

Nothing is executed: torch files go through `weights_only`, plain pickles through unpickle.py. Metadata of trainers
(configs, paths, history buffers) become empty stand-ins; any other foreign name in a file is refused.
"""

import collections
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from insloc_hub.checkpoints.unpickle import MOST_BYTES, HostilePickle, read_pickle
from insloc_hub.errors import BadCheckpoint

ZIP = b"PK\x03\x04"
LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
CONTAINERS = ("state_dict", "model", "classy_state_dict.base_model.model", "model_state_dict", "model_state", "weights")
"""Where trainers keep the model, in this order; a dot goes one mapping deeper."""
MOST_DEPTH = 6  # VISSL nests five mappings
METADATA = re.compile(
    r"argparse\.Namespace|collections\.defaultdict|pathlib\..*|datetime\..*|uuid\..*|builtins\.(list|dict|set|int|float|str|bool)|"
    r"typing\.Any|numpy\.(dtype|ndarray|dtypes\..*)|numpy\.(core|_core)\.multiarray\.(scalar|_reconstruct)|_codecs\.encode|"
    r"(omegaconf|mmengine|mmcv|pytorch_lightning|lightning|lightning_fabric|yacs|addict|easydict|enum)\..*|"
    r"(vissl|classy_vision)\..*(config|state).*"
)
"""Foreign names that are known to stand for settings and logs; what they name is never imported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file's tensors and what it says of itself."""

    path: str
    form: str
    """safetensors, torch, torch (legacy), pickle, or a folder of timm's."""
    tensors: Mapping[str, Tensor]
    author: str = ""
    """`__author__` or `author` of the file, if it names one."""
    container: str = ""
    """Key under which the tensors were found; "" at the top."""
    others: tuple[str, ...] = ()
    """Further mappings with tensors that were left alone (an optimizer, a moving average)."""
    config: str = ""
    """The training configuration as text (mmdet writes one), or timm's config.json."""
    metadata: Mapping[str, str] = field(default_factory=dict)


class _Inert:
    """Stands for an object of a foreign class: takes any arguments and any state, keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file, or an exported folder with its parts. BadCheckpoint: missing, damaged, hostile, no weights."""
    try:
        if path.is_dir():
            return _read_folder(path)
        with path.open("rb") as handle:
            start = handle.read(4096)
        return _reader(path, start)(path)
    except FileNotFoundError:
        raise BadCheckpoint(path, "no such file or folder") from None
    except OSError as error:
        raise BadCheckpoint(path, error.strerror or str(error)) from None


def _reader(path: Path, start: bytes) -> Callable[[Path], Checkpoint]:
    if not start:
        raise BadCheckpoint(path, "an empty file; the download was cut off")
    if start.startswith(ZIP) or start.startswith(LEGACY_TORCH):
        return _read_torch
    if start[8:9] == b"{":
        return _read_safetensors
    if start[257:262] == b"ustar":
        raise BadCheckpoint(path, "a tar archive (torch before 0.2, or a bundle). Unpack it and give the weights file inside")
    if start[:1] == b"\x80" or start[:1] in b"(}c]":
        if _is_text(start) and start[:1] != b"\x80" and b"\n" not in start[:64]:
            raise BadCheckpoint(path, _text_problem(start))
        return _read_plain_pickle
    if _is_text(start):
        raise BadCheckpoint(path, _text_problem(start))
    raise BadCheckpoint(path, f"no weights file: it begins with {start[:4].hex(' ')}, neither safetensors, torch nor pickle")


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in start[:512])


def _text_problem(start: bytes) -> str:
    first = start[:60].decode("utf-8", "replace").strip().split("\n")[0]
    if b"git-lfs" in start[:200]:
        return "a Git LFS pointer, not the weights themselves. Fetch them: git lfs pull"
    return f"a text file ({first!r}), no weights; a download page saved in place of the file looks like this"


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise BadCheckpoint(path, f"not a whole safetensors file ({error}). Fetch it again") from None
    return Checkpoint(path=str(path), form="safetensors", tensors=tensors, metadata=metadata)


def _read_folder(folder: Path) -> Checkpoint:
    """timm's form: model.safetensors, our parts beside it under their own names, config.json."""
    inner = folder / "model" if (folder / "model" / "model.safetensors").is_file() else folder
    weights = inner / "model.safetensors"
    if not weights.is_file():
        raise BadCheckpoint(folder, "no model.safetensors in this folder nor in its model/; give the weights file itself")
    tensors = dict(_read_safetensors(weights).tensors)
    parts = inner / "parts" / "fpn_head.safetensors"
    if parts.is_file():
        tensors |= _read_safetensors(parts).tensors
    config = inner / "config.json"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return Checkpoint(path=str(folder), form="folder", tensors=tensors, config=text)


def _read_torch(path: Path) -> Checkpoint:
    with path.open("rb") as handle:
        zipped = handle.read(4) == ZIP
    try:
        foreign = _stand_ins(path) if zipped else []
        # An open file, since torch goes by the ending of a name.
        with torch.serialization.safe_globals(foreign), path.open("rb") as handle:
            content = torch.load(handle, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise HostilePickle(path, wanted[1]) from None
        raise BadCheckpoint(path, "a torch file with objects that can't be read safely. Save its state dict alone") from None
    except BadCheckpoint:
        raise
    # A damaged file can raise nearly anything from torch's reader, which calls no foreign code.
    except Exception as error:
        first = str(error).split("\n")[0][:160]
        raise BadCheckpoint(path, f"a torch file cut short or damaged ({first}). Fetch it again") from None
    return _unwrap(path, "torch" if zipped else "torch (legacy)", content)


def _stand_ins(path: Path) -> list[Any]:
    """What torch is to take for each foreign name of the file; HostilePickle: a name that is no known metadata."""
    found: list[Any] = []
    with path.open("rb") as handle:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(handle)
    for name in names:
        if not METADATA.fullmatch(name):
            raise HostilePickle(path, name)
        found.append((_stand_in(name), name))
    return found


def _stand_in(name: str) -> Any:
    kinds = {"collections.defaultdict": _ordered, "_codecs.encode": _latin1}
    if name.endswith((".AttributeDict", ".ConfigDict", ".EasyDict", ".CfgNode", ".Dict")):
        return collections.OrderedDict
    # Each name gets a class of its own: torch keeps one name per object.
    return kinds.get(name) or type(name.rpartition(".")[2], (_Inert,), {})


def _ordered(*factory: object) -> "collections.OrderedDict[Any, Any]":
    return collections.OrderedDict()


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _read_plain_pickle(path: Path) -> Checkpoint:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise BadCheckpoint(path, f"{size / 2**30:.0f} GiB of pickle; weights of a ResNet need far less, so it is not read")
    return _unwrap(path, "pickle", read_pickle(path, path.read_bytes()))


def _unwrap(path: Path, form: str, content: Any) -> Checkpoint:
    """Find the state dict inside what a trainer saved. BadCheckpoint: there is none."""
    if not isinstance(content, Mapping):
        raise BadCheckpoint(path, f"holds a {type(content).__name__}, not a mapping of tensors. Save the model's state_dict()")
    container = next((key for key in CONTAINERS if _tensors(_at(content, key))), "")
    tensors = _tensors(_at(content, container) if container else content)
    if not tensors:
        some = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise BadCheckpoint(path, f"no tensors in it, neither at the top nor under {', '.join(CONTAINERS)}; it holds {some}")
    top = container.split(".")[0]
    others = tuple(str(key) for key, value in content.items() if container and key != top and _tensors(value))
    meta = content.get("meta")
    config = str(meta.get("config", "")) if isinstance(meta, Mapping) else ""
    author = str(content.get("__author__") or content.get("author") or "")
    return Checkpoint(
        path=str(path), form=form, tensors=tensors, author=author, container=container, others=others, config=config
    )


def _at(content: Any, key: str) -> Any:
    for step in key.split("."):
        content = content.get(step) if isinstance(content, Mapping) else None
    return content


def _tensors(content: Any, before: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Tensors of a mapping, nested names joined by dots. numpy arrays become tensors that own their memory."""
    found: dict[str, Tensor] = {}
    if not isinstance(content, Mapping) or depth > MOST_DEPTH:
        return found
    for key, value in content.items():
        name = f"{before}{key}"
        if isinstance(value, Tensor):
            found[name] = value.detach()
        elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
            found[name] = torch.from_numpy(np.array(value, order="C"))
        elif isinstance(value, Mapping):
            found |= _tensors(value, f"{name}.", depth + 1)
    return found
