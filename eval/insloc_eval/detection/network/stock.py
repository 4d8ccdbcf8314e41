"""Our detectors from torchvision's own classes: what an exported folder is loaded into.

A file of plain torch and torchvision; export.py copies it beside the weights, so that nothing of ours needs to be installed.
"""

import math
from collections import OrderedDict
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from insloc_eval.detection.network.pooling import Anchors, Pooler

BOX_PX, SCORE = 0.1, 1e-3  # what two machines may differ by


class SameStage(nn.Module):
    """C4's mask head: the box head's own stage and norm, registered there."""

    def __init__(self, head: nn.Sequential) -> None:
        super().__init__()
        self.owner = (head,)

    def forward(self, regions: Tensor) -> Tensor:
        """Of other regions, by the same weights."""
        grid: Tensor = self.owner[0][:2](regions)
        return grid


def stock_detector(facts: dict[str, Any]) -> FasterRCNN:
    """facts.json -> torchvision's FasterRCNN or MaskRCNN in evaluation mode, with torchvision's own pooling and anchors."""
    trunk: Any = torchvision.models.get_model(facts["arch"], weights=None)
    parts = _fpn_parts(trunk, facts) if facts["variant"] == "fpn" else _c4_parts(trunk, facts)
    sizes, ratios = [tuple(one) for one in facts["anchor_sizes"]], tuple(facts["anchor_ratios"])
    options = {
        **parts,
        "rpn_anchor_generator": AnchorGenerator(tuple(sizes), (ratios,) * len(sizes)),
        "min_size": facts["short_px"],
        "max_size": facts["longest_px"],
        "image_mean": facts["mean"],
        "image_std": facts["std"],
        **facts["counts"],
    }
    made = (MaskRCNN if facts["mask"] else FasterRCNN)(**options)
    return made.eval()


def _fpn_parts(trunk: Any, facts: dict[str, Any]) -> dict[str, Any]:
    norm: dict[str, Any] = {"norm_layer": nn.BatchNorm2d}
    widths = [trunk.inplanes // 8 << i for i in range(4)]
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    head = FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], **norm)
    if facts["extra_norm"]:
        head.add_module("fc_extra_norm", nn.BatchNorm1d(1024))
    kinds = facts["kinds"] + 1
    parts: dict[str, Any] = {
        "backbone": BackboneWithFPN(trunk, layers, widths, 256, **norm),
        "box_head": head,
        "box_predictor": FastRCNNPredictor(1024, kinds),
    }
    if facts["mask"]:
        parts |= {"mask_head": MaskRCNNHeads(256, [256] * 4, 1, **norm), "mask_predictor": MaskRCNNPredictor(256, 256, kinds)}
    return parts


def _c4_parts(trunk: Any, facts: dict[str, Any]) -> dict[str, Any]:
    width, kinds = trunk.inplanes, facts["kinds"] + 1
    body = nn.Sequential(OrderedDict(list(trunk.named_children())[:7]))  # up to layer3
    backbone = nn.Sequential(OrderedDict(body=body))
    backbone.out_channels = width // 2
    norm: nn.Module = nn.BatchNorm2d(width) if facts["extra_norm"] else nn.Identity()
    steps = {"stage": trunk.layer4, "norm": norm, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(1)}
    head = nn.Sequential(OrderedDict(steps))
    pool = MultiScaleRoIAlign(["0"], 14, 2)
    parts = {"backbone": backbone, "box_roi_pool": pool, "box_head": head, "box_predictor": FastRCNNPredictor(width, kinds)}
    if facts["mask"]:
        parts |= {"mask_roi_pool": pool, "mask_head": SameStage(head), "mask_predictor": MaskRCNNPredictor(width, 256, kinds)}
    return parts


def install(detector: FasterRCNN, facts: dict[str, Any]) -> None:
    """Put in the pooling and the anchors that the weights were trained with."""
    pools = facts["pool_strides"]
    detector.roi_heads.box_roi_pool = Pooler(pools, facts["box_grid"])
    if facts["mask"]:
        detector.roi_heads.mask_roi_pool = Pooler(pools, 14)
    sizes = tuple(tuple(one) for one in facts["anchor_sizes"])
    detector.rpn.anchor_generator = Anchors(sizes, tuple(facts["anchor_ratios"]), tuple(facts["anchor_strides"]))


@torch.inference_mode()
def check(detector: FasterRCNN, example: dict[str, Tensor]) -> None:
    """RuntimeError: the stored picture does not give the stored boxes."""
    found = detector([example["image"].float() / 255])[0]
    if not same(found, example):
        counts = f"{len(found['boxes'])} boxes are not the {len(example['boxes'])} stored ones"
        raise RuntimeError(f"{counts}: is a file of another export here?")


def same(found: dict[str, Tensor], example: dict[str, Tensor]) -> bool:
    """Whether boxes, scores and labels agree, in their order."""
    if len(found["boxes"]) != len(example["boxes"]) or not torch.equal(found["labels"], example["labels"]):
        return False
    gap = (found["boxes"] - example["boxes"]).abs().max().item() if len(found["boxes"]) else 0.0
    off = (found["scores"] - example["scores"]).abs().max().item() if len(found["boxes"]) else 0.0
    return math.isfinite(gap) and gap <= BOX_PX and off <= SCORE
