"""Spec -> a plain timm module in eval mode, with names and bytes of the weights checked.

timm drops strict loading as soon as the class count differs from the file's (compat.md 1.1): a misnamed tensor then
stays random in silence. So tensor names are compared here, before timm loads.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from insloc_hub.encoders.backbone import new_timm_model
from insloc_hub.errors import BadSpec, InslocError, UnknownName
from insloc_hub.files import sha256_file
from insloc_hub.models.spec import Spec, parse_spec
from insloc_hub.models.zoo import card_folder

if TYPE_CHECKING:
    from insloc_hub.checkpoints.verify import Loaded

logger = logging.getLogger(__name__)
MOST_REASON = 300  # characters of another library's message that are passed on


def create_model(spec: str, **timm_kwargs: Any) -> nn.Module:
    """The model that `spec` names (see insloc_hub/models/spec.py), headless unless `num_classes` is given, in eval mode.

    `timm_kwargs` go to timm.create_model (num_classes, in_chans, features_only, out_indices, ...). BadSpec: the spec, or
    its weights, can't be had: never a random model in their place. UnknownName: no such architecture, tag or card.

    >>> create_model("random:resnet18@1").num_features
    512
    """
    parsed = parse_spec(spec)
    kwargs = {"num_classes": 0, **timm_kwargs}
    if parsed.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(parsed.seed)
            model = new_timm_model(parsed.name, **kwargs)
    elif parsed.kind == "timm":
        model = _timm_pretrained(parsed, kwargs)
    elif parsed.kind == "hf-hub":
        model = _from_hub(parsed, kwargs)
        folder = _hub_folder(parsed)
        if folder is not None:
            check_bytes(folder)
            mark_untrained(model, read_config(folder))
    elif parsed.kind == "checkpoint":
        model = _from_checkpoint(parsed, kwargs)
    else:
        folder = card_folder(parsed.name) if parsed.kind == "card" else Path(parsed.name)
        check_folder(folder)
        model = _from_timm(parsed.text, f"local-dir:{folder}", kwargs)
        mark_untrained(model, read_config(folder))
    return model.eval()


def mark_untrained(model: nn.Module, config: dict[str, Any]) -> None:
    """Note on the model which layers its card says no gradient ever reached: whoever pools must not go through them."""
    model.insloc_untrained = tuple(config.get("insloc", {}).get("untrained", ()))  # type: ignore[assignment]


def model_arch(spec: str) -> str:
    """timm's name of the architecture behind a spec, without loading weights where that can be helped."""
    parsed = parse_spec(spec)
    if parsed.kind in ("random", "timm"):
        return parsed.name.split(".")[0]
    if parsed.kind == "checkpoint":
        return _load_checkpoint(parsed).recognised.arch
    if parsed.kind == "hf-hub":
        return str(create_model(spec).pretrained_cfg["architecture"])  # type: ignore[index]
    folder = card_folder(parsed.name) if parsed.kind == "card" else Path(parsed.name)
    return str(read_config(folder)["architecture"])


def weights_digest(model: nn.Module) -> str:
    """Hex sha256 of the names and bytes of all tensors but a classifier's, on any device: who a model is in a record."""
    head = str(getattr(model, "pretrained_cfg", {}).get("classifier") or "")
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if head and name.startswith(f"{head}."):
            continue
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an exported folder. BadSpec: not there, or not one of timm's form."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSpec(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise BadSpec(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise BadSpec(f"{path}: names no architecture, so it is no model of timm's")
    for key, kind, default in (("insloc", dict, {}), ("num_classes", int, 0)):
        if not isinstance(config.get(key, default), kind):
            raise BadSpec(f"{path}: its {key} is {config[key]!r}, which can't be; the file was edited by hand")
    return config


def check_folder(folder: Path) -> None:
    """BadSpec: an exported folder whose weights are missing, cut short, altered, or named for another network."""
    config = read_config(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BadSpec(f"{folder}: model.safetensors is missing; export the run again: insloc export RUN")
    check_bytes(folder)
    try:
        with safe_open(weights, framework="pt") as handle:
            shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadSpec(f"{weights}: not a whole safetensors file ({error})") from None
    with torch.device("meta"):
        model = new_timm_model(config["architecture"], num_classes=config.get("num_classes", 0))
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    wrong = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    problems = {
        "missing": sorted(wanted.keys() - shapes.keys() - optional),
        "unexpected": sorted(shapes.keys() - wanted.keys()),
        "of another shape": wrong,
    }
    for problem, names in problems.items():
        if names:
            raise BadSpec(f"{weights}: {len(names)} tensors are {problem} for {config['architecture']}, e.g. {names[0]}")


def check_bytes(folder: Path) -> None:
    """BadSpec: the weights are not the bytes whose sha256 config.json holds. One without a digest of ours is let through."""
    promised = read_config(folder).get("insloc", {}).get("sha256")
    weights = folder / "model.safetensors"
    if promised and not weights.is_file():
        raise BadSpec(f"{folder}: model.safetensors is missing, which config.json has a digest of; fetch it again")
    if promised and sha256_file(weights) != promised:
        raise BadSpec(f"{weights}: its sha256 is not the one in config.json: cut short, altered or swapped; fetch it again")


def _timm_pretrained(spec: Spec, kwargs: dict[str, Any]) -> nn.Module:
    name = spec.name.split(".")[0]
    if not timm.is_model(name):
        raise UnknownName("model", spec.text, timm.list_models(), "timm.list_models(), insloc models")
    tags = timm.list_pretrained(f"{name}.*")
    if not tags:
        raise BadSpec(f"timm has no pretrained weights for {name}; for random ones say random:{name}")
    if "." in spec.name and spec.name not in tags:
        raise UnknownName("pretrained tag", spec.name, tags, f"timm.list_pretrained('{name}*')")
    return _from_timm(spec.text, spec.name, kwargs)


def _load_checkpoint(spec: Spec) -> "Loaded":
    # Imported here: most specs need none of it.
    from insloc_hub.checkpoints.read import read_checkpoint
    from insloc_hub.checkpoints.verify import load

    return load(read_checkpoint(Path(spec.name)))


def _from_checkpoint(spec: Spec, kwargs: dict[str, Any]) -> nn.Module:
    """Anybody's weights file through the code that converts it, its trunk's names proved against the file's own."""
    from insloc_hub.checkpoints.folder import pretrained_cfg
    from insloc_hub.checkpoints.names import part_of
    from insloc_hub.checkpoints.verify import doubts, prove_mapping

    loaded = _load_checkpoint(spec)
    if not all(row.agrees for row in prove_mapping(loaded)):
        raise BadSpec(f"{spec.name}: timm would make another network of it than the file holds. See: insloc verify {spec.name}")
    fed = loaded.convention
    if fed.order == "BGR":
        raise BadSpec(f"{spec.name}: made for BGR input and a stride in the 1x1 ({fed.why}), which no network of timm's has")
    for doubt in doubts(loaded):
        logger.warning("%s: %s", spec.name, doubt)
    arch = loaded.recognised.arch
    trunk = {name: tensor.float() for name, tensor in loaded.tensors.items() if part_of(name) == "trunk"}
    overlay = pretrained_cfg(arch, "checkpoint") | {"state_dict": trunk}
    model = _from_timm(spec.text, arch, {"pretrained_cfg_overlay": overlay, **kwargs})
    model.pretrained_cfg.pop("state_dict")  # type: ignore[operator, union-attr]
    return model


def _from_hub(spec: Spec, kwargs: dict[str, Any]) -> nn.Module:
    """A repository's model, read with its own class count first: asked for another one, timm would not be strict."""
    name = f"hf-hub:{spec.name}"
    adapted = ("num_classes", "features_only", "out_indices")
    model = _from_timm(spec.text, name, {key: value for key, value in kwargs.items() if key not in adapted})
    if kwargs.get("features_only"):
        return _from_timm(spec.text, name, kwargs)
    if model.num_classes != kwargs["num_classes"]:
        model.reset_classifier(kwargs["num_classes"])  # type: ignore[operator]
    return model


def _hub_folder(spec: Spec) -> Path | None:
    """The folder in the Hub's cache of a repository that timm has just read."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = spec.name.partition("@")
    path = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(path).parent if isinstance(path, str) else None


def _from_timm(text: str, name: str, kwargs: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **kwargs)
    except InslocError:
        raise
    except TypeError as error:
        raise BadSpec(f"model {text!r}: {error}") from None
    # Wide on purpose: connection errors are different classes in the two huggingface_hub lines (compat.md 2).
    except Exception as error:
        first = " ".join(str(error).split())[:MOST_REASON] or type(error).__name__
        raise BadSpec(
            f"model {text!r}: its weights can't be had ({first}). Check the name and the network, "
            "set HF_HOME to a cache that holds them, or give a local folder"
        ) from None
    return model
