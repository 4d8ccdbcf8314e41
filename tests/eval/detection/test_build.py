"""Whole detectors: stock torchvision takes their weights, and with our pooling and anchors gives the same answers."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import MultiScaleRoIAlign

from insloc_eval.detection.build import build_detector
from insloc_eval.detection.network.pooling import Anchors
from insloc_eval.protocols.detection import Detection
from insloc_hub.errors import InslocError

Make = Callable[..., Detection]
Scene = Callable[..., tuple[list[Tensor], list[dict[str, Tensor]]]]
LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    made: nn.Module = timm.create_model("resnet18", num_classes=0)
    return made


def stock(protocol: Detection, classes: int) -> FasterRCNN:
    """Nothing of ours but numbers: torchvision's classes on torchvision's resnet18."""
    anchors = Anchors(tuple((s,) for s in protocol.anchor_sizes), protocol.anchor_ratios, (4, 8, 16, 32, 64))
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(resnet18(), layers, [64, 128, 256, 512], 256, norm_layer=nn.BatchNorm2d)
    norm = {"norm_layer": nn.BatchNorm2d}
    options: dict[str, Any] = {
        "rpn_anchor_generator": anchors,
        "box_head": FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], **norm),
        "rpn_pre_nms_top_n_test": protocol.rpn_pre_test,
        "rpn_post_nms_top_n_test": protocol.rpn_post_test,
        "min_size": 64,
    }
    if protocol.mask:
        return MaskRCNN(backbone, classes + 1, mask_head=MaskRCNNHeads(256, [256] * 4, 1, **norm), **options)
    return FasterRCNN(backbone, classes + 1, **options)


@pytest.mark.parametrize("mask", [False, True])
def test_a_state_dict_loads_strictly_in_stock_torchvision_which_then_finds_the_same_boxes(
    tiny: Make, scene: Scene, resnet: nn.Module, mask: bool
) -> None:
    protocol = tiny("fpn", mask=mask, score_floor=0.3, most_detections=5)
    ours = build_detector(protocol, resnet, classes=2, seed=0).eval()
    theirs = stock(protocol, 2).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    theirs.roi_heads.score_thresh, theirs.roi_heads.detections_per_img = 0.3, 5
    image = scene()[0][0]  # its shorter side is what both are set to, so neither resizes
    with torch.no_grad():
        before = theirs([image])[0]["boxes"]
        theirs.roi_heads.box_roi_pool = ours.roi_heads.box_roi_pool
        mine, same = ours([image])[0], theirs([image])[0]
    assert len(mine["boxes"]) == 5 and isinstance(stock(protocol, 2).roi_heads.box_roi_pool, MultiScaleRoIAlign)
    assert torch.allclose(mine["boxes"], same["boxes"], atol=1e-4) and torch.allclose(mine["scores"], same["scores"], atol=1e-6)
    assert torch.equal(mine["labels"], same["labels"])
    assert before.shape != mine["boxes"].shape or not torch.allclose(before, mine["boxes"], atol=1e-4)


def test_a_c4_state_dict_loads_strictly_in_stock_torchvision(tiny: Make, resnet: nn.Module) -> None:
    ours = build_detector(tiny("c4"), resnet, classes=2, seed=0)
    plain = resnet18()
    body = nn.Sequential(OrderedDict([("body", nn.Sequential(OrderedDict(list(plain.named_children())[:7])))]))
    body.out_channels = 256
    parts = {"stage": plain.layer4, "norm": nn.BatchNorm2d(512), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(1)}
    head = nn.Sequential(OrderedDict(parts))
    anchors = Anchors((tiny("c4").anchor_sizes,), tiny("c4").anchor_ratios, (16,))
    pool = MultiScaleRoIAlign(["0"], 14, 2)
    predictor = copy.deepcopy(ours.roi_heads.box_predictor)
    theirs = FasterRCNN(body, rpn_anchor_generator=anchors, box_head=head, box_predictor=predictor, box_roi_pool=pool)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    grids = torch.rand(3, 256, 14, 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(theirs.eval().roi_heads.box_head(grids), ours.eval().roi_heads.box_head(grids))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("variant", ["fpn", "c4"])
def test_a_training_pass_gives_every_loss_and_a_gradient_to_every_parameter(
    tiny: Make, scene: Scene, trunk: nn.Module, variant: str, mask: bool
) -> None:
    detector = build_detector(tiny(variant, mask=mask, extra_norm=True), trunk, classes=2, seed=0)
    losses = detector(*scene())
    assert set(losses) == LOSSES | ({"loss_mask"} if mask else set())
    sum(losses.values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None or not p.requires_grad] == []
    assert not any(parameter.grad is not None for parameter in trunk.parameters())


@pytest.mark.parametrize("variant", ["fpn", "c4"])
def test_new_layers_come_from_the_seed_and_the_trunk_from_the_trunk(tiny: Make, trunk: nn.Module, variant: str) -> None:
    protocol = tiny(variant)
    before = torch.random.get_rng_state()
    first, again, other = (build_detector(protocol, trunk, classes=2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights = [name for name in first if name.startswith(("rpn.head.conv", "roi_heads.box_predictor")) and "bias" not in name]
    assert len(weights) == 3 and not any(torch.equal(first[name], other[name]) for name in weights)
    places = ("backbone.body.", "roi_heads.box_head.stage.")
    found = {name: tensor for name, tensor in first.items() if name.startswith(places)}
    pairs = zip(trunk.state_dict().values(), found.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs) and all(torch.equal(first[name], other[name]) for name in found)


def test_predictors_start_near_zero_so_that_boxes_begin_as_proposals(tiny: Make, trunk: nn.Module) -> None:
    predictor = build_detector(tiny(), trunk, classes=20, seed=0).roi_heads.box_predictor
    assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not predictor.cls_score.bias.any() and not predictor.bbox_pred.bias.any()


def test_pixels_are_normalised_as_the_trunk_was_fed_and_padded_to_its_coarsest_stride(tiny: Make, trunk: nn.Module) -> None:
    detector = build_detector(tiny(), trunk, classes=2, seed=0)
    image = torch.full((3, 60, 80), 255, dtype=torch.uint8)
    made, _ = detector.transform([image])
    mean, std = (torch.tensor(trunk.pretrained_cfg[key]) for key in ("mean", "std"))
    assert made.tensors.shape == (1, 3, 64, 96) and made.image_sizes == [(60, 80)]
    assert torch.allclose(made.tensors[0, :, 59, 79], (1 - mean) / std) and not made.tensors[0, :, 60:].any()


def test_a_c4_detector_with_a_neck_or_a_wrong_number_of_anchor_sizes_is_refused(tiny: Make, trunk: nn.Module) -> None:
    with pytest.raises(InslocError, match="a C4 detector has no neck"):
        build_detector(tiny("c4", init_parts="trunk+fpn"), trunk, classes=2, seed=0)
    with pytest.raises(InslocError, match="has 5 anchor sizes, one a level; got"):
        build_detector(tiny("fpn", anchor_sizes=(32, 64)), trunk, classes=2, seed=0)
    with pytest.raises(InslocError, match="needs the parts"):
        build_detector(tiny("fpn", init_parts="trunk+fpn"), trunk, classes=2, seed=0)
