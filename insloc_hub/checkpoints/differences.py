"""Two networks' tensors under our names -> what differs, and by which mistake that usually happens."""

from collections.abc import Mapping

import torch
from torch import Tensor

from insloc_hub.checkpoints.names import COUNTER

Tensors = Mapping[str, Tensor]


def differences(a: Tensors, b: Tensors, twin: Tensors) -> dict[str, list[str]]:
    """Kind -> names, of the tensors of `b` that are not those of `a`; counters aside, which no output depends on.

    `twin` are the tensors of a's other encoder, {} if it has none.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(a.keys() & b.keys()):
        if not name.endswith(COUNTER) and not _equal(a[name], b[name]):
            found.setdefault(_kind(name, a, b, twin), []).append(name)
    return found


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _kind(name: str, a: Tensors, b: Tensors, twin: Tensors) -> str:
    """The first explanation that fits exactly."""
    ours, theirs = a[name], b[name]
    if ours.shape != theirs.shape:
        return "of another shape"
    if ours.dtype != theirs.dtype:
        return f"{theirs.dtype} instead of {ours.dtype}".replace("torch.", "")
    if name in twin and torch.equal(twin[name], theirs):
        return "of the other encoder (momentum twin)"
    if not theirs.isfinite().all():
        return "not finite"
    if torch.equal(ours, -theirs):
        return "of the opposite sign"
    if ours.ndim == 4 and ours.shape[1] == 3 and torch.equal(ours.flip(1), theirs):
        return "with red and blue swapped (BGR)"
    if ours.ndim >= 2 and ours.shape[0] == ours.shape[1] and torch.equal(ours.transpose(0, 1), theirs):
        return "transposed (output and input channels)"
    if ours.ndim == 4 and torch.equal(ours.transpose(2, 3), theirs):
        return "transposed (rows and columns)"
    if _initial(name, theirs):
        return "at their initial value"
    others = (other for other, tensor in a.items() if other != name and tensor.shape == theirs.shape)
    if any(torch.equal(a[other], theirs) for other in others):
        return "in another tensor's place"
    return _scaled(ours, theirs)


def _initial(name: str, tensor: Tensor) -> bool:
    last = name.rpartition(".")[2]
    if tensor.ndim != 1:
        return False
    start = 1 if last in ("weight", "running_var") else 0
    return bool((tensor == start).all())


def _scaled(ours: Tensor, theirs: Tensor) -> str:
    """One factor for all values, or one a channel, or other values."""
    if not ours.is_floating_point() or not ours.ndim:
        return "of other values"
    ratio = theirs.double() / ours.double()
    if not ratio.isfinite().all():
        return "of other values"
    by_channel = ratio.reshape(ratio.shape[0], -1)
    if torch.allclose(by_channel, by_channel[:1, :1], rtol=1e-4):
        return "scaled by one factor"
    if ratio.ndim > 1 and torch.allclose(by_channel, by_channel[:, :1], rtol=1e-4):
        return "scaled by channel"
    return "of other values"
