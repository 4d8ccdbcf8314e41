"""What becomes of a region: box and mask heads of FPN and C4, and the pass that trains or reads them.

FPN: 4 convolutions with norms and one fc; masks from a pooling of their own (paper.md C.3). C4: the trunk's last stage
and a new norm; in training the masks' loss shares its output with the boxes, as detectron2's Res5ROIHeads (C.1, C.2).
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference

from insloc_eval.detection.network.losses import box_losses, full, mask_loss, mask_targets
from insloc_hub import paper
from insloc_hub.shapes import Float

EXTRA_NORM = "fc_extra_norm"  # the release's name of it (paper.md A.7)
Sizes = list[tuple[Any, Any]]
"""Height and width of each image; tensors while it is traced for ONNX."""
Targets = list[dict[str, Tensor]]
"""Per image: boxes float32 [n 4], labels int64 [n] from 1, and for masks uint8 [n h w], all in network pixels."""


class LastStage(nn.Sequential):
    """C4's box head: last stage, new norm (without it where the protocol says so), mean. Names stage.*, norm.*."""

    def __init__(self, stage: nn.Module, channels: int, extra_norm: bool) -> None:
        norm: nn.Module = nn.BatchNorm2d(channels) if extra_norm else nn.Identity()
        parts = {"stage": stage, "norm": norm, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(1)}
        super().__init__(OrderedDict(parts))

    def grid(self, regions: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d hh ww"]:
        """What the boxes' mean and the mask head read."""
        for part in list(self)[:2]:
            regions = part(regions)
        return regions

    def means(self, grid: Float[Tensor, "n d hh ww"]) -> Float[Tensor, "n d"]:
        """What the box predictors read."""
        for part in list(self)[2:]:
            grid = part(grid)
        return grid


class SameStage(nn.Module):
    """C4's mask head: the box head's own stage and norm, registered there."""

    def __init__(self, head: LastStage) -> None:
        super().__init__()
        self.owner = (head,)  # in a tuple, so not registered twice

    def forward(self, regions: Float[Tensor, "n c 14 14"]) -> Float[Tensor, "n d 7 7"]:
        """Of other regions, by the same weights."""
        return self.owner[0].grid(regions)


def conv_box_head(extra_norm: bool) -> FastRCNNConvFCHead:
    """FPN's: 4 x (3x3 conv, norm, ReLU), fc, ReLU; with `extra_norm` one more norm behind (paper.md A.7)."""
    side, channels = paper.FPN_ROI_SIZE, paper.FPN_CHANNELS
    convs = [channels] * paper.FPN_HEAD_CONVS
    head = FastRCNNConvFCHead((channels, side, side), convs, [paper.FPN_HEAD_FC], norm_layer=nn.BatchNorm2d)
    if extra_norm:
        head.add_module(EXTRA_NORM, nn.BatchNorm1d(paper.FPN_HEAD_FC))
    return head


def conv_mask_head() -> MaskRCNNHeads:
    """FPN's: 4 x (3x3 conv, norm, ReLU)."""
    return MaskRCNNHeads(paper.FPN_CHANNELS, [paper.FPN_CHANNELS] * 4, 1, norm_layer=nn.BatchNorm2d)


class RegionHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoIHeads with our losses; masks come back as probabilities inside their boxes, not pasted."""

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """In training no detections and the losses by name; else detections (boxes, scores, labels, masks) and no losses."""
        if self.training:
            return [], self.losses(features, proposals, image_shapes, targets or [])
        vectors = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, deltas = (full(one) for one in self.box_predictor(vectors))
        found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        rows = [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(*found, strict=True)]
        if self.has_mask():
            regions = self.mask_roi_pool(features, [row["boxes"] for row in rows], image_shapes)
            logits = full(self.mask_predictor(self.mask_head(regions)))
            for row, masks in zip(rows, maskrcnn_inference(logits, [row["labels"] for row in rows]), strict=True):
                row["masks"] = masks
        return rows, {}

    def losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets
    ) -> dict[str, Tensor]:
        """loss_classifier, loss_box_reg, loss_mask, of regions drawn from proposals and true boxes by the global generator."""
        boxes, matched, labels, wanted = self.select_training_samples(proposals, targets)
        every = torch.cat(labels)
        positive = [torch.where(one > 0)[0] for one in labels]
        regions = self.box_roi_pool(features, boxes, image_shapes)
        grid = None
        if isinstance(self.box_head, LastStage):
            grid = self.box_head.grid(regions)
            vectors = self.box_head.means(grid)
        else:
            vectors = self.box_head(regions)
        logits, deltas = (full(one) for one in self.box_predictor(vectors))
        classifier, box = box_losses(logits, deltas, every, torch.cat(wanted))
        losses = {"loss_classifier": classifier, "loss_box_reg": box}
        if self.has_mask():
            some = [rows[at] for rows, at in zip(boxes, positive, strict=True)]
            grid = self.mask_head(self.mask_roi_pool(features, some, image_shapes)) if grid is None else grid[every > 0]
            masks = full(self.mask_predictor(grid))
            owners = [rows[at] for rows, at in zip(matched, positive, strict=True)]
            truth = [
                mask_targets(target["masks"], rows, owner, masks.shape[-1])
                for target, rows, owner in zip(targets, some, owners, strict=True)
            ]
            losses["loss_mask"] = mask_loss(masks, every[every > 0], torch.cat(truth))
        return losses
