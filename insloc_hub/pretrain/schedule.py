"""The optimizer and its learning rate (paper.md A.5)."""

import math

import torch
from torch import nn

from insloc_hub.recipes import Recipe


def make_optimizer(encoder: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on every parameter, norms and biases too, as released."""
    return torch.optim.SGD(
        encoder.parameters(),
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
