"""True box -> a random anchor that overlaps it: the query's box augmentation (paper.md A.4).

Positives are anchors with IoU > 0.5; NMS at 0.7 with random scores thins them; one survivor is drawn uniformly. Batched:
no loop over images, only over rounds of the suppression.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou

from insloc_hub import paper
from insloc_hub.shapes import Bool, Float


def augment_boxes(
    boxes: Float[Tensor, "b 4"], anchors: Float[Tensor, "a 4"], generator: torch.Generator
) -> Float[Tensor, "b 4"]:
    """One anchor per box, XYXY pixels; it may leave the canvas. The exact box where no anchor overlaps enough.

    Departure from the release, whose fallback would return boxes almost apart from the true one (paper.md A.8 no. 4).
    `generator` lives on the boxes' device; exactly two draws of [b a] are taken from it.
    """
    positive = box_iou(boxes, anchors) > paper.ANCHOR_IOU
    scores = torch.rand(positive.shape, generator=generator, device=boxes.device)
    kept = suppress(positive, scores, anchors)
    lottery = torch.rand(kept.shape, generator=generator, device=boxes.device).masked_fill(~kept, -1)
    picked = anchors[lottery.argmax(dim=1)]
    return torch.where(kept.any(dim=1, keepdim=True), picked, boxes)


def suppress(positive: Bool[Tensor, "b a"], scores: Float[Tensor, "b a"], anchors: Float[Tensor, "a 4"]) -> Bool[Tensor, "b a"]:
    """Greedy NMS within each row's positives, all rows at once: a round keeps each row's best and drops its neighbours."""
    most = int(positive.sum(dim=1).max()) if len(positive) else 0
    kept = torch.zeros_like(positive)
    if most == 0:
        return kept
    # Only the positives (at most a few hundred of 5120) take part; empty places have score -1 and are never alive.
    top, index = scores.masked_fill(~positive, -1).topk(most, dim=1)
    candidates = anchors[index]  # [b p 4]
    alive = top >= 0
    while bool(alive.any()):
        best = torch.where(alive, top, -1).argmax(dim=1, keepdim=True)  # [b 1]
        active = alive.gather(1, best)
        kept.scatter_(1, index.gather(1, best), kept.gather(1, index.gather(1, best)) | active)
        overlap = _iou_with(candidates, candidates.gather(1, best[:, :, None].expand(-1, -1, 4)))
        alive &= ~(overlap > paper.ANCHOR_NMS_IOU)
        alive.scatter_(1, best, False)
    return kept


def _iou_with(boxes: Float[Tensor, "b p 4"], one: Float[Tensor, "b 1 4"]) -> Float[Tensor, "b p"]:
    """IoU of every row's boxes with that row's one box."""
    low = torch.maximum(boxes[..., :2], one[..., :2])
    high = torch.minimum(boxes[..., 2:], one[..., 2:])
    inside = (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    area_one = (one[..., 2:] - one[..., :2]).prod(dim=-1)
    return inside / (area + area_one - inside)
