"""Batch statistics by group, and the shuffle across groups, on one device (paper.md A.2, contracts.md 12).

In MoCo each GPU normalises its own 32 images; the keys are shuffled across GPUs, because a query and its key that share
batch statistics recognise each other by them (MoCo, sec. 3.3). One device has the same leak unless its batch is split.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from insloc_hub.shapes import Float, Int


def forward_in_groups(
    encoder: nn.Module, images: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b 4"], groups: int
) -> Float[Tensor, "b l d"]:
    """The encoder on each of `groups` equal parts of the batch: every BatchNorm sees one part at a time.

    Running statistics are updated once per group, as they are once per GPU and step in the release.
    """
    parts = [encoder(x, rows) for x, rows in zip(images.chunk(groups), boxes.chunk(groups), strict=True)]
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class Shuffle:
    """A permutation of the batch and its inverse."""

    order: Int[Tensor, " b"]
    inverse: Int[Tensor, " b"]


def draw_shuffle(batch: int, generator: torch.Generator) -> Shuffle:
    """A random permutation; images AND boxes must go through the same one."""
    order = torch.randperm(batch, generator=generator, device=generator.device)
    return Shuffle(order, order.argsort())
