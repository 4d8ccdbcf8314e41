"""Spec -> a plain timm module in eval mode, with names and bytes of the weights checked.

timm drops strict loading as soon as the class count differs from the file's (compat.md 1.1): a misnamed tensor then
stays random in silence. So tensor names are compared here, before timm loads.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from insloc_hub.encoders.backbone import new_timm_model
from insloc_hub.errors import BadSpec, InslocError, UnknownName
from insloc_hub.models.fetch import cant_be_had, card_folder, check_bytes, hub_config_folder, hub_folder
from insloc_hub.models.spec import Spec, parse_spec
from insloc_hub.models.zoo import read_config

if TYPE_CHECKING:
    from insloc_hub.checkpoints.verify import Loaded

logger = logging.getLogger(__name__)
COUNTER = "num_batches_tracked"  # of a BatchNorm; a file may lack it


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
    elif parsed.kind == "checkpoint":
        model = _from_checkpoint(parsed, kwargs)
    elif (folder := folder_of(parsed)) is not None:
        model = _from_folder(parsed.text, folder, kwargs)
    else:
        model = _from_hub(parsed, kwargs)
    return model.eval()


def folder_of(spec: Spec) -> Path | None:
    """The folder with the weights of a spec, downloaded if need be; None: none of our form. BadSpec, UnknownName."""
    if spec.kind == "card":
        return card_folder(spec.name)
    if spec.kind == "folder":
        return Path(spec.name)
    if spec.kind == "hf-hub":
        repo, _, revision = spec.name.partition("@")
        # A stranger's repository promises no sha256; timm loads it as it does for everybody.
        return hub_folder(repo, revision or None)
    return None


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
        repo, _, revision = parsed.name.partition("@")
        return str(read_config(hub_config_folder(repo, revision or None))["architecture"])
    folder = folder_of(parsed)
    assert folder is not None  # of the two kinds that are left
    return str(read_config(folder)["architecture"])


def weights_digest(model: nn.Module) -> str:
    """Hex sha256 of the names and bytes of all tensors but a classifier's, on any device: who a model is in a record."""
    head = str(getattr(model, "pretrained_cfg", {}).get("classifier") or "")
    return tensors_digest({n: t for n, t in model.state_dict().items() if not (head and n.startswith(f"{head}."))})


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex sha256 of names and bytes, in the order of the names."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def check_folder(folder: Path) -> nn.Module:
    """The network of an exported folder without its weights (on the meta device), once these are known to be its own.

    BadSpec: weights that are missing, cut short, altered, or named for another network.
    """
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
    model = _without_weights(folder, config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    optional = {name for name in wanted if name.endswith(COUNTER)}
    wrong = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    problems = {
        "missing": sorted(wanted.keys() - shapes.keys() - optional),
        "unexpected": sorted(shapes.keys() - wanted.keys()),
        "of another shape": wrong,
    }
    for problem, names in problems.items():
        if names:
            raise BadSpec(f"{weights}: {len(names)} tensors are {problem} for {config['architecture']}, e.g. {names[0]}")
    return model


def _from_folder(text: str, folder: Path, kwargs: dict[str, Any]) -> nn.Module:
    """The model of a checked folder; as it is, its tensors take their places without random ones being drawn first."""
    model = check_folder(folder)
    config = read_config(folder)
    if kwargs == {"num_classes": config.get("num_classes", 0)}:
        tensors = load_file(folder / "model.safetensors")
        empty = model.state_dict()
        counters = {name: torch.zeros((), dtype=t.dtype) for name, t in empty.items() if name.endswith(COUNTER)}
        own = {name: t.to(empty[name].dtype, copy=True) for name, t in tensors.items()}  # apart from the file
        model.load_state_dict(counters | own, assign=True)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        # Another head or number of channels, or something that no file holds: timm's own way.
        model = _from_timm(text, f"local-dir:{folder}", kwargs)
    mark_untrained(model, config)
    return model


def _without_weights(folder: Path, config: dict[str, Any]) -> nn.Module:
    """The network that timm makes of a config.json. UnknownName: no such architecture. BadSpec: settings it does not take."""
    if not timm.is_model(config["architecture"].split(".")[0]):
        raise UnknownName("timm architecture", config["architecture"], timm.list_models(), "timm.list_models()")
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=False)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise BadSpec(f"{folder / 'config.json'}: timm makes no {config['architecture']} of it ({error})") from None
    return model


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


def _from_timm(text: str, name: str, kwargs: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **kwargs)
    except InslocError:
        raise
    except TypeError as error:
        raise BadSpec(f"model {text!r}: {error}") from None
    # Wide on purpose: connection errors are different classes in the two huggingface_hub lines (compat.md 2).
    except Exception as error:
        raise cant_be_had(text, error) from None
    return model
