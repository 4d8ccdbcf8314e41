"""Losses against closed forms and loops, and against torchvision's where theirs is another."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import fastrcnn_loss, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork

from insloc_eval.detection.network.losses import RPN, ProposalHead, box_losses, full, mask_loss, mask_targets
from insloc_eval.detection.network.pooling import Anchors


def rpn(kind: type[RegionProposalNetwork]) -> RegionProposalNetwork:
    counts = {"training": 10, "testing": 10}
    return kind(Anchors(((32,),), (1.0,), (16,)), ProposalHead(4, 1), 0.7, 0.3, 8, 0.5, counts, counts, 0.7)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_proposal_losses_are_those_of_a_loop_over_the_sampled_anchors() -> None:
    objectness, deltas, targets = drawn(0, 12, 1), drawn(1, 12, 4), list(drawn(2, 12, 4).split(6))
    labels = [torch.tensor([1.0, 0, 0, -1, 1, 0]).double(), torch.tensor([0.0, -1, 0, 0, 0, 1]).double()]  # 8 an image: all
    found = rpn(RPN).compute_loss(objectness, deltas, labels, targets)
    classes = boxes = 0.0
    every, wanted = torch.cat(labels), torch.cat(targets)
    used = [i for i in range(12) if every[i] >= 0]
    for i in used:
        p = 1 / (1 + math.exp(-float(objectness[i])))
        classes -= math.log(p if every[i] == 1 else 1 - p) / len(used)
        if every[i] == 1:
            boxes += float((deltas[i] - wanted[i]).abs().sum()) / len(used)
    assert [float(loss) for loss in found] == pytest.approx([classes, boxes], abs=1e-12)


def test_torchvisions_proposal_box_loss_is_smooth_near_zero_and_otherwise_equal() -> None:
    """paper.md C: beta 0, so L1; torchvision's beta is 1/9. A difference of d > beta counts d - beta / 2 there."""
    objectness, deltas = drawn(0, 8, 1), torch.full((8, 4), 0.5).double()
    labels = [torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).double()]
    targets = [torch.zeros(8, 4).double()]
    ours = rpn(RPN).compute_loss(objectness, deltas, labels, targets)
    theirs = rpn(RegionProposalNetwork).compute_loss(objectness, deltas, labels, targets)
    assert torch.equal(ours[0], theirs[0])
    assert float(ours[1]) == pytest.approx(4 * 0.5 / 8) and float(theirs[1]) == pytest.approx(4 * (0.5 - 1 / 18) / 8)


def test_box_losses_count_a_positives_own_class_over_all_regions() -> None:
    logits, deltas, targets = drawn(0, 3, 3), drawn(1, 3, 12), drawn(2, 3, 4)
    labels = torch.tensor([2, 0, 1])
    classes, boxes = box_losses(logits, deltas, labels, targets)
    own = [(0, 2), (2, 1)]
    wanted = sum(float((deltas[i, 4 * c : 4 * c + 4] - targets[i]).abs().sum()) for i, c in own) / 3
    assert float(boxes) == pytest.approx(wanted, abs=1e-12)
    assert float(classes) == pytest.approx(float(-F.log_softmax(logits, 1)[[0, 1, 2], labels].mean()))


def test_without_a_positive_the_box_loss_is_zero_with_a_gradient() -> None:
    deltas = drawn(1, 3, 12).requires_grad_()
    _, boxes = box_losses(drawn(0, 3, 3), deltas, torch.zeros(3, dtype=torch.int64), drawn(2, 3, 4))
    boxes.backward()
    assert boxes.item() == 0 and deltas.grad is not None and not deltas.grad.any()


def test_torchvisions_box_losses_differ_in_the_same_way() -> None:
    logits, labels = drawn(0, 2, 2), torch.tensor([1, 0])
    deltas, targets = torch.full((2, 8), 0.5).double(), torch.zeros(2, 4).double()
    ours, theirs = box_losses(logits, deltas, labels, targets), fastrcnn_loss(logits, deltas, [labels], [targets])
    assert torch.equal(ours[0], theirs[0])
    assert float(ours[1]) == pytest.approx(4 * 0.5 / 2) and float(theirs[1]) == pytest.approx(4 * (0.5 - 1 / 18) / 2)


def test_the_mask_loss_is_log_2_at_zero_and_reads_the_own_class_only() -> None:
    logits = torch.zeros(2, 3, 4, 4).double()
    logits[0, 1] = 50.0  # another class than its own
    truth = (drawn(0, 2, 4, 4) > 0).double()
    assert float(mask_loss(logits, torch.tensor([2, 1]), truth)) == pytest.approx(math.log(2))
    logits[:, :] = (truth * 2 - 1)[:, None] * 40
    assert float(mask_loss(logits, torch.tensor([2, 1]), truth)) < 1e-12


def test_without_regions_the_mask_loss_is_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4))
    loss.backward()
    assert float(loss) == 0 and logits.grad is not None


def test_a_mask_target_is_the_matched_mask_inside_the_box() -> None:
    masks = torch.zeros(2, 40, 60, dtype=torch.uint8)
    masks[0, :, :30] = 1  # the left half
    masks[1, 10:20] = 1
    boxes = torch.tensor([[20.0, 0, 40, 20], [0.0, 0, 40, 20], [0, 0, 20, 20]])
    found = mask_targets(masks, boxes, torch.tensor([0, 0, 1]), 4)
    assert found.shape == (3, 4, 4) and found.dtype == torch.float32
    assert found[0].tolist() == [[1, 1, 0, 0]] * 4
    assert found[1].tolist() == [[1, 1, 1, 0]] * 4
    assert found[2].tolist() == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]


def test_torchvisions_mask_targets_are_half_a_pixel_off_and_between_0_and_1() -> None:
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, :, 8:] = 1
    boxes = torch.tensor([[4.0, 4, 12, 12]])
    ours = mask_targets(masks, boxes, torch.tensor([0]), 8)
    theirs = project_masks_on_boxes(masks, boxes, torch.tensor([0]), 8)
    assert ours[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert theirs[0, 0].tolist() == [0, 0, 0, 0.5, 1, 1, 1, 1]


def test_numbers_leave_the_low_precision_before_they_are_coordinates() -> None:
    assert full(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert full(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = ProposalHead(4, 3)([torch.rand(1, 4, 5, 6)])
    assert logits[0].shape == (1, 3, 5, 6) and deltas[0].shape == (1, 12, 5, 6)
    assert logits[0].dtype == deltas[0].dtype == torch.float32
