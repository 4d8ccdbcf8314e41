"""The optimizer and its learning rate (paper.md A.5)."""

import math
from typing import Any

import torch
from torch import nn

from insloc_hub.recipe import Recipe


def make_optimizer(encoder: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on every parameter, norms and biases too, as released.

    Without `recipe.decay_norms` the one-dimensional parameters (norms, biases) do not decay.
    """
    parameters = list(encoder.parameters())
    decayed = [p for p in parameters if recipe.decay_norms or p.ndim > 1]
    free = [p for p in parameters if not recipe.decay_norms and p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, *([{"params": free, "weight_decay": 0.0}] if free else [])]
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.sgd_momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )


def cosine_by_epoch(base: float, epoch: int, epochs: int) -> float:
    """Learning rate of `epoch` (from 0): constant inside an epoch, never quite 0.

    >>> round(cosine_by_epoch(0.03, 100, 200), 6)
    0.015
    """
    return base * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
