"""Optimiser, learning rate by step, and the norms' statistics at the end (paper.md C, common to all)."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from insloc_eval.protocols.detection import Detection

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(detector: nn.Module, protocol: Detection) -> torch.optim.SGD:
    """SGD with momentum, not Nesterov's; norms decay by `norm_decay`, all else, biases too, by `weight_decay`."""
    norms = {p for part in detector.modules() if isinstance(part, NORMS) for p in part.parameters(recurse=False)}
    rest = [p for p in detector.parameters() if p not in norms]
    ordered = [p for p in detector.parameters() if p in norms]
    groups = [{"params": rest, "weight_decay": protocol.weight_decay}, {"params": ordered, "weight_decay": protocol.norm_decay}]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=protocol.lr, momentum=protocol.momentum)


def rate_at(protocol: Detection, step: int) -> float:
    """Learning rate of optimiser step `step` (from 0): linear from warmup_start of it, then a tenth at each drop."""
    rate = protocol.lr * 0.1 ** sum(step >= drop for drop in protocol.lr_drops)
    if step >= protocol.warmup_steps:
        return rate
    done = step / protocol.warmup_steps
    return rate * (protocol.warmup_start * (1 - done) + done)


@torch.no_grad()
def precise_norms(detector: nn.Module, forwards: Iterable[Callable[[], object]]) -> None:
    """Replace the running statistics of every BatchNorm by their plain mean over `forwards`, each in training mode.

    That of torch's `momentum=None`: each batch counts the same, its variance unbiased, as torch's running one is.
    """
    norms = [p for p in detector.modules() if isinstance(p, nn.modules.batchnorm._BatchNorm) and p.track_running_stats]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for forward in forwards:
        forward()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
