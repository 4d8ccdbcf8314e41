"""Protocol + timm trunk -> a detector: torchvision's GeneralizedRCNN with its names, on any CNN with the right strides.

Where paper.md C.1-C.3 asks for other arithmetic than torchvision hard-codes, the module is ours (network/): pooling and
anchors, L1 box losses, aligned mask targets; and the starts of new layers are detectron2's.
"""

import copy
from collections.abc import Mapping

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from insloc_eval.detection.network.body import PYRAMID_STRIDES, PyramidBody, Stride16Body
from insloc_eval.detection.network.heads import LastStage, RegionHeads, SameStage, Sizes, conv_box_head, conv_mask_head
from insloc_eval.detection.network.parts import load_parts
from insloc_eval.detection.network.pooling import Anchors, Pooler
from insloc_eval.detection.network.proposals import RPN, ProposalHead
from insloc_eval.protocols.detection import Detection
from insloc_hub import paper
from insloc_hub.data.transform import STRIDE, InputFacts, input_facts
from insloc_hub.errors import InslocError

MASK_ROI_SIZE = 14  # paper.md C.3: 14 x 14 in, 28 x 28 out; C4's is the box head's grid
MASK_CHANNELS = 256
CLASS_STD, BOX_STD, MASK_STD = 0.01, 0.001, 0.001  # detectron2's starts of the predictors


class NetworkInput(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Normalise and pad; images come at their network size (batches.py resizes) and answers leave in its pixels."""

    def normalize(self, image: Tensor) -> Tensor:
        """Pixels uint8, or float in 0..1."""
        normal: Tensor = super().normalize(image.float() / 255 if image.dtype == torch.uint8 else image)
        return normal

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """As they are."""
        return image, target

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: Sizes, original_image_sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        """As they are: predict.py carries boxes and masks to the original."""
        return result


def build_detector(
    protocol: Detection, trunk: nn.Module, *, classes: int, seed: int, parts: Mapping[str, Tensor] | None = None
) -> GeneralizedRCNN:
    """A detector in training mode of `classes` kinds of objects, every parameter trainable; `trunk` is copied, not changed.

    New layers start from `seed`. `parts` (network/parts.py's read_parts) must be given where protocol.init_parts asks for
    more than the trunk. InslocError: no such detector on this network; BadCheckpoint: other parts.
    """
    check_choice(protocol, parts is not None)
    own = copy.deepcopy(trunk).requires_grad_(True)
    arch = str(own.pretrained_cfg["architecture"])  # type: ignore[index]
    facts = input_facts(resolve_model_data_config(own))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = _assemble(protocol, own, arch, classes, facts)
        _start_predictors(detector)
    if parts is not None and protocol.init_parts != "trunk":
        load_parts(detector, parts, protocol.init_parts)
    return detector.train()


def check_choice(protocol: Detection, has_parts: bool) -> None:
    """InslocError: a combination that is no detector of paper.md C."""
    if protocol.init_parts != "trunk" and protocol.variant == "c4":
        raise InslocError("a C4 detector has no neck and no conv head, so --init-parts must be trunk (the last stage is in it)")
    if protocol.init_parts != "trunk" and not has_parts:
        raise InslocError(f"init_parts {protocol.init_parts} needs the parts of an exported InsLoc-FPN folder")
    if protocol.variant == "fpn" and len(protocol.anchor_sizes) != len(PYRAMID_STRIDES):
        raise InslocError(f"an FPN detector has {len(PYRAMID_STRIDES)} anchor sizes, one a level; got {protocol.anchor_sizes}")


def _assemble(protocol: Detection, trunk: nn.Module, arch: str, classes: int, facts: InputFacts) -> GeneralizedRCNN:
    """Backbone, RPN, heads: in this order, which fixes what the generator gives to each."""
    if protocol.variant == "fpn":
        backbone: PyramidBody | Stride16Body = PyramidBody(trunk, arch)
        anchors = Anchors(
            tuple((size,) for size in protocol.anchor_sizes), protocol.anchor_ratios, tuple(PYRAMID_STRIDES.values())
        )
    else:
        backbone = Stride16Body(trunk, arch)
        anchors = Anchors((protocol.anchor_sizes,), protocol.anchor_ratios, (paper.C4_STRIDE,))
    head = ProposalHead(backbone.out_channels, anchors.num_anchors_per_location()[0])
    rpn = RPN(
        anchors,
        head,
        protocol.rpn_high,
        protocol.rpn_low,
        protocol.rpn_batch,
        protocol.rpn_positive,
        {"training": protocol.rpn_pre_train, "testing": protocol.rpn_pre_test},
        {"training": protocol.rpn_post_train, "testing": protocol.rpn_post_test},
        protocol.rpn_nms,
    )
    heads = _region_heads(protocol, backbone, classes)
    size_at_test = (protocol.test_short_px, protocol.longest_px)
    return GeneralizedRCNN(backbone, rpn, heads, NetworkInput(*size_at_test, list(facts.mean), list(facts.std), STRIDE))


def _region_heads(protocol: Detection, backbone: PyramidBody | Stride16Body, classes: int) -> RegionHeads:
    """With class 0 as the background, as torchvision counts."""
    if isinstance(backbone, PyramidBody):
        width, box, mask = _pyramid_heads(protocol)
    else:
        width, box, mask = _stage_heads(protocol, backbone)
    if protocol.mask:
        mask.append(MaskRCNNPredictor(paper.FPN_CHANNELS if protocol.variant == "fpn" else width, MASK_CHANNELS, classes + 1))
    return RegionHeads(
        *box,
        FastRCNNPredictor(width, classes + 1),
        protocol.roi_iou,
        protocol.roi_iou,
        protocol.roi_batch,
        protocol.roi_positive,
        protocol.box_weights,
        protocol.score_floor,
        protocol.test_nms,
        protocol.most_detections,
        *mask,
    )


def _pyramid_heads(protocol: Detection) -> tuple[int, list[nn.Module], list[nn.Module]]:
    """Width of a region's vector; pooler and head for boxes; the same for masks, if they are learnt."""
    levels = {name: stride for name, stride in PYRAMID_STRIDES.items() if name != "pool"}
    box: list[nn.Module] = [Pooler(levels, paper.FPN_ROI_SIZE), conv_box_head(protocol.extra_norm)]
    mask: list[nn.Module] = [Pooler(levels, MASK_ROI_SIZE), conv_mask_head()] if protocol.mask else []
    return paper.FPN_HEAD_FC, box, mask


def _stage_heads(protocol: Detection, backbone: Stride16Body) -> tuple[int, list[nn.Module], list[nn.Module]]:
    """As `_pyramid_heads`."""
    pooler = Pooler({"0": paper.C4_STRIDE}, paper.C4_ROI_SIZE)
    head = LastStage(backbone.stage[0], backbone.stage_channels, protocol.extra_norm)
    return backbone.stage_channels, [pooler, head], [pooler, SameStage(head)] if protocol.mask else []


def _start_predictors(detector: GeneralizedRCNN) -> None:
    """detectron2's starts, where torchvision takes a linear layer's default: near zero, so that boxes begin as proposals."""
    heads = detector.roi_heads
    pairs = [(heads.box_predictor.cls_score, CLASS_STD), (heads.box_predictor.bbox_pred, BOX_STD)]
    if heads.mask_predictor is not None:
        pairs.append((heads.mask_predictor.mask_fcn_logits, MASK_STD))
    for layer, std in pairs:
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    for layer in heads.box_head.children():
        if isinstance(layer, nn.Linear):  # the FPN head's fc
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
