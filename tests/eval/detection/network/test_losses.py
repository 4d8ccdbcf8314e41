"""Losses against closed forms and loops, and against torchvision's where theirs is another."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import fastrcnn_loss, project_masks_on_boxes

from insloc_eval.detection.network.losses import box_losses, mask_loss, mask_targets, proposal_losses


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_proposal_losses_are_those_of_a_loop_over_the_drawn_anchors() -> None:
    logits, deltas, targets = drawn(0, 6), drawn(1, 6, 4), drawn(2, 6, 4)
    labels = torch.tensor([1.0, 1, 0, 0, 0, 0]).double()
    classes = boxes = 0.0
    for i in range(6):
        p = 1 / (1 + math.exp(-float(logits[i])))
        classes -= math.log(p if labels[i] == 1 else 1 - p) / 6
        boxes += float((deltas[i] - targets[i]).abs().sum()) / 6 if labels[i] == 1 else 0
    assert [float(loss) for loss in proposal_losses(logits, deltas, labels, targets)] == pytest.approx([classes, boxes])


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
