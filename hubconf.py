"""torch.hub's door: `torch.hub.load(REPO, "insloc_resnet18", source="local", weights=PATH)`.

Entry points return plain timm models in eval mode. Everything but them carries an underscore, or torch.hub lists it.
"""

import warnings as _warnings
from pathlib import Path as _Path

import insloc_hub as _insloc_hub

dependencies = ["torch", "timm", "safetensors", "huggingface_hub"]

_HERE = _Path(__file__).resolve().parent
if _Path(_insloc_hub.__file__).resolve().parent.parent != _HERE:
    # The one imported first wins inside a process (docs/formats: torch.hub), whatever checkout this file is of.
    _warnings.warn(f"insloc_hub was imported from {_insloc_hub.__file__} before; its code is used, not {_HERE}'s", stacklevel=2)


def insloc_resnet18(pretrained: bool = True, weights: str | None = None, **timm_kwargs):
    """ResNet-18. `weights`: a card's tag, an exported folder, a run folder, or the model.safetensors of one.

    pretrained=False gives fresh random weights. Further arguments go to timm.create_model (num_classes, in_chans, ...).
    """
    return _load("resnet18", pretrained, weights, timm_kwargs)


def insloc_resnet50(pretrained: bool = True, weights: str | None = None, **timm_kwargs):
    """ResNet-50. `weights`: a card's tag, an exported folder, a run folder, or the model.safetensors of one.

    pretrained=False gives fresh random weights. Further arguments go to timm.create_model (num_classes, in_chans, ...).
    """
    return _load("resnet50", pretrained, weights, timm_kwargs)


def insloc(name: str, **timm_kwargs):
    """Any model by its spec: a card, a folder, random:ARCH, hf-hub:ORG/NAME, a timm name with pretrained weights.

    Further arguments go to timm.create_model (num_classes, in_chans, ...).
    """
    return _create(name, timm_kwargs)


def _load(arch, pretrained, weights, timm_kwargs):
    from insloc_hub.errors import BadSpec
    from insloc_hub.models.create import model_arch
    from insloc_hub.models.zoo import entries, list_models

    if not pretrained:
        if weights is not None:
            raise ValueError("weights are given, so pretrained must be True")
        return _create(f"random:{arch}", timm_kwargs)
    cards = [name for name in list_models() if name.startswith(f"insloc_{arch}.")]
    if weights is None:
        if len(cards) != 1:
            found = f"{len(cards)} cards are here: {', '.join(cards)}" if cards else "no card of it is here"
            way_out = "Say weights=FOLDER or weights=TAG, or pretrained=False for random weights"
            raise BadSpec(f"which weights of {arch}? {found}. {way_out}")
        return _create(cards[0], timm_kwargs)
    name = f"insloc_{arch}.{weights}"
    spec = name if name in cards or name in entries() else str(weights)
    if model_arch(spec) != arch:
        raise BadSpec(f"{weights} holds a {model_arch(spec)}, not a {arch}")
    return _create(spec, timm_kwargs)


def _create(spec, timm_kwargs):
    from insloc_hub.models.create import create_model

    return create_model(spec, **timm_kwargs)
