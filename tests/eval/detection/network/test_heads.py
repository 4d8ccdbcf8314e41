"""The pass over regions, against the same parts put together slowly; where a mask's features come from."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from insloc_eval.detection.network.body import Stride16Body
from insloc_eval.detection.network.heads import EXTRA_NORM, LastStage, RegionHeads, SameStage, conv_box_head
from insloc_eval.detection.network.losses import box_losses, mask_loss, mask_targets
from insloc_eval.detection.network.pooling import Pooler

TRUTH = torch.tensor([[10.0, 10, 50, 40], [30, 5, 62, 60]])
SHAPES = [(64, 64)]


def heads(trunk: nn.Module) -> tuple[RegionHeads, int]:
    body = Stride16Body(copy.deepcopy(trunk), "resnet10t")
    head, pooler = LastStage(body.stage[0], body.stage_channels, True), Pooler({"0": 16}, 14)
    mask = [pooler, SameStage(head), MaskRCNNPredictor(body.stage_channels, 8, 3)]
    predictor = FastRCNNPredictor(body.stage_channels, 3)
    made = RegionHeads(pooler, head, predictor, 0.5, 0.5, 8, 0.25, (10.0, 10.0, 5.0, 5.0), 0.05, 0.5, 100, *mask)
    return made, body.out_channels


def targets() -> list[dict[str, Tensor]]:
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 10:25, 10:50] = 1
    masks[1, 5:60, 40:62] = 1
    return [{"boxes": TRUTH, "labels": torch.tensor([1, 2]), "masks": masks}]


def test_losses_of_a_c4_head_are_those_of_its_parts_on_the_drawn_regions(trunk: nn.Module) -> None:
    made, channels = heads(trunk)
    made.eval()  # so that the norms give each region the same in any batch; the pass below is the training one all the same
    maps = {"0": torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(0))}
    proposals = [torch.tensor([[12.0, 10, 48, 42], [0, 0, 20, 20], [28, 0, 60, 60], [1, 40, 30, 64]])]
    torch.manual_seed(1)
    boxes, matched, labels, wanted = made.select_training_samples(proposals, targets())
    torch.manual_seed(1)
    found = made.losses(maps, proposals, SHAPES, targets())
    slow = [made.box_head.grid(made.box_roi_pool(maps, [row[None]], SHAPES)) for row in boxes[0]]
    vectors = torch.cat(slow).mean(dim=(2, 3))
    classifier, box = box_losses(*made.box_predictor(vectors), labels[0], wanted[0])
    positive = [i for i, label in enumerate(labels[0].tolist()) if label > 0]
    logits = torch.cat([made.mask_predictor(slow[i]) for i in positive])
    truth = mask_targets(targets()[0]["masks"], boxes[0][positive], matched[0][positive], 14)
    wanted_losses = [classifier, box, mask_loss(logits, labels[0][positive], truth)]
    assert 0 < len(positive) < len(boxes[0]) and list(found) == ["loss_classifier", "loss_box_reg", "loss_mask"]
    assert [x.item() for x in found.values()] == pytest.approx([x.item() for x in wanted_losses], rel=1e-5)


def test_the_mask_head_of_c4_has_no_weights_of_its_own(trunk: nn.Module) -> None:
    made, _ = heads(trunk)
    assert list(made.mask_head.state_dict()) == [] and list(made.mask_head.parameters()) == []
    assert any(name.startswith("box_head.norm.") for name in made.state_dict())


def test_masks_of_detections_are_probabilities_of_their_own_class_in_their_boxes(trunk: nn.Module) -> None:
    made, channels = heads(trunk)
    nn.init.constant_(made.mask_predictor.mask_fcn_logits.weight, 0)
    with torch.no_grad():
        made.mask_predictor.mask_fcn_logits.bias.copy_(torch.tensor([0.0, 2.0, -2.0]))
        made.box_predictor.cls_score.bias.copy_(torch.tensor([-9.0, 0.0, 0.0]))
        rows, losses = made.eval()({"0": torch.rand(1, channels, 4, 4)}, [TRUTH], SHAPES, None)
    assert losses == {} and set(rows[0]["labels"].tolist()) == {1, 2}
    shown = torch.tensor([2.0, -2.0]).sigmoid()[rows[0]["labels"] - 1]
    assert rows[0]["masks"].shape == (len(shown), 1, 14, 14)
    assert torch.allclose(rows[0]["masks"], shown[:, None, None, None].expand_as(rows[0]["masks"]))


def test_the_extra_norm_stands_behind_the_relu_of_the_fc() -> None:
    """paper.md A.7: the vector that the predictors read has then mean 0 in a training batch."""
    regions = torch.rand(6, 256, 7, 7)
    with torch.no_grad():
        plain, normed = conv_box_head(False).train()(regions), conv_box_head(True).train()(regions)
    assert plain.min() >= 0 and plain.mean() > 0.01
    assert normed.mean(dim=0).abs().max() < 1e-5 and list(conv_box_head(True)._modules)[-1] == EXTRA_NORM
