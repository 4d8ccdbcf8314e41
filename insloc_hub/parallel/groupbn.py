"""Batch statistics by group, and the shuffle across groups, on one device (paper.md A.2, contracts.md 12).

In MoCo each GPU normalises its own 32 images; the keys are shuffled across GPUs, because a query and its key that share
batch statistics recognise each other by them (MoCo, sec. 3.3). One device has the same leak unless its batch is split.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from insloc_hub.shapes import Float, Int


def forward_in_groups(
    encoder: nn.Module, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b l 4"], groups: int
) -> Float[Tensor, "b ..."]:
    """The encoder on `groups` equal parts of the batch, each with BatchNorm statistics of its own.

    Running statistics move once per group, as they do once per GPU and step in the release. On an accelerator all groups
    go through at once: many small forwards leave it idle. On a CPU one after the other is faster, and exact.
    """
    if images.is_cuda and groups > 1:
        return forward_at_once(encoder, images, boxes, groups)
    parts = [encoder(x, rows) for x, rows in zip(images.chunk(groups), boxes.chunk(groups), strict=True)]
    return torch.cat(parts)


def forward_at_once(
    encoder: nn.Module, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b l 4"], groups: int
) -> Float[Tensor, "b ..."]:
    """One forward of the whole batch in which every batch norm keeps the groups apart; equal up to rounding.

    Only the norms' counters differ: they count steps here. Rows of a layer's input must be group-major: images in batch
    order, or several RoIs per image, image-major.
    """
    with _GroupNorms(groups):
        out: Tensor = encoder(images, boxes)
    return out


class _GroupNorms(TorchFunctionMode):
    """While inside, `torch.nn.functional.batch_norm` in training normalises each of `groups` parts of its rows alone."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.batch_norm:
            return _group_norm(self.groups, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _group_norm(
    groups: int,
    x: Float[Tensor, "n c ..."],
    running_mean: Float[Tensor, " c"] | None,
    running_var: Float[Tensor, " c"] | None,
    weight: Float[Tensor, " c"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Tensor, "n c ..."]:
    """batch_norm with the groups moved to the channels, since a channel's statistics are its own."""
    norm = nn.functional.batch_norm
    if not training:
        return norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    side = torch.unflatten(x, 0, (groups, -1)).transpose(0, 1).flatten(1, 2)  # [n/g, g c, ...]
    moved_mean, moved_var, weights, biases = (
        None if p is None else p.repeat(groups) for p in (running_mean, running_var, weight, bias)
    )
    out = norm(side, moved_mean, moved_var, weights, biases, training, momentum, eps)
    for running, moved in ((running_mean, moved_mean), (running_var, moved_var)):
        if running is not None and moved is not None:
            keep = 1 - momentum
            news = moved.view(groups, -1) - keep * running  # momentum x each group's statistic
            late = keep ** torch.arange(groups - 1, -1, -1, device=x.device, dtype=running.dtype)
            running.copy_(keep**groups * running + (late[:, None] * news).sum(dim=0))  # as one group after the other
    apart: Tensor = torch.unflatten(out, 1, (groups, -1))
    return apart.transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A permutation of the batch and its inverse."""

    order: Int[Tensor, " b"]
    inverse: Int[Tensor, " b"]


def draw_shuffle(batch: int, generator: torch.Generator) -> Shuffle:
    """A random permutation; images AND boxes must go through the same one."""
    order = torch.randperm(batch, generator=generator, device=generator.device)
    return Shuffle(order, order.argsort())
