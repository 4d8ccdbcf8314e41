"""Ring of past keys, one per level, written all at once. He et al. 2020 (arXiv:1911.05722), sec. 3.1; paper.md A.2."""

import torch
from torch import Tensor, nn

from insloc_hub.shapes import Float


class Queue(nn.Module):
    """`keys` [l d k]: unit columns, random at the start; `pointer`: the next slot to write."""

    keys: Tensor
    pointer: Tensor

    def __init__(self, levels: int, dim: int, slots: int, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.randn(levels, dim, slots, generator=generator)
        self.register_buffer("keys", nn.functional.normalize(start, dim=1))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "b l d"]) -> None:
        """Write a batch over the oldest keys. ValueError: the batch does not divide the slots."""
        batch, slots = len(keys), self.keys.shape[2]
        if slots % batch:
            raise ValueError(f"a batch of {batch} does not divide the {slots} slots of the queue")
        at = int(self.pointer)
        self.keys[:, :, at : at + batch] = keys.permute(1, 2, 0)
        self.pointer[0] = (at + batch) % slots
