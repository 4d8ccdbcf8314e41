"""Any timm CNN as feature maps by stride, from one forward of the plain model.

The plain model is kept whole (never timm's features_only wrapper, which renames parameters in some families), so that
its state dict is what plain timm reads.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from insloc_hub.errors import InslocError, UnknownName
from insloc_hub.shapes import Float


def build_trunk(arch: str, seed: int) -> nn.Module:
    """A fresh headless timm model with ordinary norms, as pretraining starts from. UnknownName: timm has no such CNN."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = new_timm_model(arch, num_classes=0)
    ordinary_norms(trunk)
    return trunk


def new_timm_model(arch: str, **kwargs: object) -> nn.Module:
    """timm's model with random weights from the current generator. UnknownName: with the nearest right names."""
    name = arch.split(".")[0]
    if not timm.is_model(name):
        raise UnknownName("timm architecture", arch, timm.list_models(), "timm.list_models()")
    model: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
    return model


def ordinary_norms(module: nn.Module) -> None:
    """Set every BatchNorm's weight to 1 and bias to 0.

    timm starts the last norm of each residual block at zero; InsLoc's release does not (paper.md A.3), and what a random
    network knows of position depends on it (paper.md D.1).
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def map_strides(model: nn.Module) -> dict[int, int]:
    """Stride in pixels -> index for `forward_intermediates`, the deepest map of each stride.

    InslocError: the model gives no maps.
    """
    return {int(entry["reduction"]): index for index, entry in enumerate(_entries(model))}


def map_channels(model: nn.Module) -> dict[int, int]:
    """Stride in pixels -> channels of its deepest map."""
    return {int(entry["reduction"]): int(entry["num_chs"]) for entry in _entries(model)}


def feature_maps(
    model: nn.Module, images: Float[Tensor, "b 3 h w"], strides: Sequence[int]
) -> dict[int, Float[Tensor, "b _ _ _"]]:
    """The maps of the asked strides; stages after the last one are not run. InslocError: a stride it does not have."""
    index_of = map_strides(model)
    missing = [stride for stride in strides if stride not in index_of]
    if missing:
        raise InslocError(f"no map of stride {missing[0]}; this model has {sorted(index_of)}")
    order = sorted(set(strides), key=lambda stride: index_of[stride])
    maps = model.forward_intermediates(  # type: ignore[operator]
        images, indices=[index_of[stride] for stride in order], intermediates_only=True, stop_early=True
    )
    return dict(zip(order, maps, strict=True))


def last_stage_name(model: nn.Module, arch: str) -> str:
    """Name of the module that turns the stride-16 map into the stride-32 map: C4's head (res5 in a ResNet).

    Proved on a small input instead of looked up in a table of families. InslocError: there is no such single module.
    """
    reason = f"{arch} has no single last stage between its stride-16 and stride-32 maps, so InsLoc-C4 can't be built on it"
    strides = map_strides(model)
    if 16 not in strides or 32 not in strides:
        raise InslocError(f"{reason}: its strides are {sorted(strides)}")
    name = str(_entries(model)[strides[32]]["module"])
    was_training = model.training
    model.eval()
    probe = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64).to(next(model.parameters()))
    with torch.no_grad():
        maps = feature_maps(model, probe, [16, 32])
        try:
            same = torch.equal(model.get_submodule(name)(maps[16]), maps[32])
        except RuntimeError:  # the channels do not fit: another module stands between
            same = False
    model.train(was_training)
    if not same:
        raise InslocError(f"{reason}: {name!r} alone does not do it")
    return name


def _entries(model: nn.Module) -> list[dict[str, Any]]:
    info: Any = getattr(model, "feature_info", None)
    if not info or not hasattr(model, "forward_intermediates"):
        raise InslocError(f"{type(model).__name__} gives no feature maps; take a timm model with feature_info")
    return list(info.get_dicts() if hasattr(info, "get_dicts") else info)
