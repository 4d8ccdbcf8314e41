"""The RPN that learns from the drawn anchors only, against torchvision's dense one with the same loss."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from insloc_eval.detection.network.losses import full, proposal_losses
from insloc_eval.detection.network.pooling import Anchors
from insloc_eval.detection.network.proposals import RPN, ProposalHead

SIZES = [(64, 96), (60, 80)]
TARGETS = [{"boxes": torch.tensor([[3.0, 5, 40, 44], [60, 20, 90, 50]])}, {"boxes": torch.tensor([[10.0, 8, 50, 56]])}]


class Dense(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's own pass, whose gradient runs through every cell; only the box loss is L1."""

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        drawn = torch.cat([torch.where(torch.cat(masks))[0] for masks in self.fg_bg_sampler(labels)])
        targets = torch.cat(regression_targets)[drawn]
        return proposal_losses(objectness.flatten()[drawn], pred_bbox_deltas[drawn], torch.cat(labels)[drawn], targets)


def rpn(kind: type[RegionProposalNetwork]) -> RegionProposalNetwork:
    torch.manual_seed(0)
    anchors = Anchors(((16,), (32,)), (0.5, 1.0, 2.0), (8, 16))
    head, counts = ProposalHead(6, 3), {"training": 30, "testing": 30}
    for layer in (head.conv[0][0], head.cls_logits, head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.3)
        torch.nn.init.normal_(layer.bias, std=0.3)
    made: RegionProposalNetwork = kind(anchors, head, 0.5, 0.3, 24, 0.5, counts, counts, 0.7).double()
    return made


def given() -> tuple[ImageList, dict[str, Tensor], list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 6, h, w, generator=generator, dtype=torch.float64).requires_grad_() for h, w in ((8, 12), (4, 6))]
    targets = [{"boxes": target["boxes"].double()} for target in TARGETS]
    return ImageList(torch.zeros(2, 3, 64, 96).double(), SIZES), dict(zip("01", maps, strict=True)), targets


def test_proposals_losses_and_every_gradient_are_those_of_the_dense_pass() -> None:
    found = []
    for kind in (RPN, Dense):
        made, (images, maps, targets) = rpn(kind), given()
        torch.manual_seed(3)  # the same draw of anchors
        boxes, losses = made(images, maps, targets)
        (losses["loss_objectness"] + 3 * losses["loss_rpn_box_reg"]).backward()
        gradients = [p.grad for p in made.parameters()] + [one.grad for one in maps.values()]
        found.append([*boxes, *losses.values(), *gradients])
    assert len(found[0]) == 2 + 2 + 6 + 2
    for ours, dense in zip(*found, strict=True):
        assert ours is not None and ours.abs().max() > 1e-3 and torch.allclose(ours, dense, atol=1e-12)


def test_some_anchors_in_any_order_are_those_of_the_whole_map_borders_included() -> None:
    head, maps = rpn(RPN).head, list(given()[1].values())
    logits, deltas = head(maps)
    wanted = torch.cat([one.permute(0, 2, 3, 1).flatten(1) for one in logits], dim=1).flatten()
    rows = [one.unflatten(1, (3, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for one in deltas]
    every = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(0))
    found, moves = head.at(maps, every)
    assert torch.allclose(found, wanted[every], atol=1e-12)
    assert torch.allclose(moves, torch.cat(rows, dim=1).flatten(0, 1)[every], atol=1e-12)


def test_an_answer_without_training_is_torchvisions_own() -> None:
    images, maps, _ = given()
    ours, losses = rpn(RPN).eval()(images, maps)
    theirs, _ = rpn(Dense).eval()(images, maps)
    assert losses == {} and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_torchvisions_proposal_box_loss_is_smooth_near_zero_and_otherwise_equal() -> None:
    """paper.md C: beta 0, so L1; torchvision's beta is 1/9. A difference of d > beta counts d - beta / 2 there."""
    deltas, targets = torch.full((8, 4), 0.5).double(), torch.zeros(8, 4).double()
    labels = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).double()
    logits = torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    ours = proposal_losses(logits, deltas, labels, targets)
    theirs = copy.deepcopy(rpn(RegionProposalNetwork)).compute_loss(logits[:, None], deltas, [labels], [targets])
    assert float(theirs[0]) == pytest.approx(float(ours[0]))
    assert float(ours[1]) == pytest.approx(4 * 0.5 / 8) and float(theirs[1]) == pytest.approx(4 * (0.5 - 1 / 18) / 8)
    assert float(F.l1_loss(deltas[0], targets[0], reduction="sum")) / 8 == pytest.approx(float(ours[1]))


def test_numbers_leave_the_low_precision_before_they_are_coordinates() -> None:
    assert full(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert full(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    head, one = ProposalHead(4, 3), torch.rand(1, 4, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = head([one])
        some, moves = head.at([one], torch.tensor([3, 1]))
    assert logits[0].shape == (1, 3, 5, 6) and deltas[0].shape == (1, 12, 5, 6)
    assert {x.dtype for x in (logits[0], deltas[0], some, moves)} == {torch.float32}
    assert torch.allclose(some[1], logits[0][0, 1, 0, 0], atol=0.02)
