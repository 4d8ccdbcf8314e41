"""Losses of Faster and Mask R-CNN where torchvision hard-codes others: L1 for boxes, aligned mask targets.

paper.md C: smooth L1 with beta 0, which is L1; torchvision's RPN and box head have beta 1/9.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from insloc_hub.shapes import Float, Int, UInt8


def full(x: Tensor) -> Tensor:
    """float32 where it is narrower: logits and deltas of bfloat16 arithmetic, before anything becomes a coordinate."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def proposal_losses(
    logits: Float[Tensor, " n"], deltas: Float[Tensor, "n 4"], labels: Float[Tensor, " n"], targets: Float[Tensor, "n 4"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Of the drawn anchors, label 1 or 0: binary cross-entropy of all; L1 of the positives, over the number of all."""
    positive = labels > 0
    box = F.l1_loss(deltas[positive], targets[positive], reduction="sum") / labels.numel()
    return F.binary_cross_entropy_with_logits(logits, labels), box


def box_losses(
    logits: Float[Tensor, "n classes"],
    deltas: Float[Tensor, "n _"],
    labels: Int[Tensor, " n"],
    targets: Float[Tensor, "n 4"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of all regions; L1 of the positives' own class, over the number of all. Label 0 is the background."""
    positive = torch.where(labels > 0)[0]
    own = deltas.reshape(len(logits), -1, 4)[positive, labels[positive]]
    return F.cross_entropy(logits, labels), F.l1_loss(own, targets[positive], reduction="sum") / labels.numel()


def mask_loss(
    logits: Float[Tensor, "n classes side side"],
    labels: Int[Tensor, " n"],
    targets: Float[Tensor, "n side side"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy of each region's own class; 0 without regions."""
    if not len(labels):
        return logits.sum() * 0
    rows = torch.arange(len(labels), device=labels.device)
    return F.binary_cross_entropy_with_logits(logits[rows, labels], targets)


def mask_targets(
    masks: UInt8[Tensor, "m h w"], boxes: Float[Tensor, "n 4"], matched: Int[Tensor, " n"], side: int
) -> Float[Tensor, "n side side"]:
    """0 or 1: the matched mask inside each box, sampled as the features are, as detectron2 does with bitmaps.

    torchvision's is not aligned and not rounded; detectron2's polygons are drawn at this size instead.
    """
    rois = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    grid: Any = roi_align(masks[:, None].to(boxes), rois, (side, side), 1.0, sampling_ratio=0, aligned=True)
    inside: Tensor = (grid[:, 0] >= 0.5).to(boxes)
    return inside
