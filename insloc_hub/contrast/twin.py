"""Momentum copy of any module: the key encoder. He et al. 2020 (arXiv:1911.05722), equation 2."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def make_twin(module: Module) -> Module:
    """A copy that takes no gradient. Its BatchNorm buffers go their own way from here on (paper.md A.2)."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update_twin(twin: nn.Module, module: nn.Module, momentum: float) -> None:
    """theta_k <- m theta_k + (1 - m) theta_q, parameters only."""
    keys: list[Tensor] = list(twin.parameters())
    queries: list[Tensor] = list(module.parameters())
    torch._foreach_mul_(keys, momentum)
    torch._foreach_add_(keys, queries, alpha=1 - momentum)
