"""The query's box augmentation: frozen sets, torchvision's NMS, and the statistics of paper.md A.4."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from insloc_hub.boxes.anchors import anchor_grid
from insloc_hub.boxes.augment import augment_boxes, suppress
from insloc_hub.compositor.geometry import VIEW_UNIFORMS, draw_layout, uniforms

Golden = Callable[[str], dict[str, np.ndarray]]


def masks(packed: np.ndarray) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed, axis=1).astype(bool))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_suppress(positive: Tensor, scores: Tensor, anchors: Tensor) -> Tensor:
    """torchvision's NMS, image by image."""
    kept = torch.zeros_like(positive)
    for row in range(len(positive)):
        index = positive[row].nonzero().flatten()
        kept[row, index[nms(anchors[index], scores[row, index], 0.7)]] = True
    return kept


def drawn_boxes(n: int, canvas: int) -> Tensor:
    """Boxes of composites of 500 x 375 photographs."""
    numbers = uniforms(0, 0, np.arange(n), 0, VIEW_UNIFORMS)
    return torch.from_numpy(
        draw_layout(np.tile([500, 375], (n, 1)), 10, canvas, (canvas // 2, canvas - 2), numbers).final_boxes()
    )


def test_positives_of_the_frozen_boxes_are_the_frozen_sets(golden: Golden) -> None:
    frozen = golden("anchors")
    iou = box_iou(torch.from_numpy(frozen["boxes"]), anchor_grid(256))
    assert torch.equal(iou > 0.5, masks(frozen["positive"]))
    assert np.abs(iou[0].numpy() - frozen["iou_first_box"]).max() < 1e-5


def test_survivors_of_the_suppression_are_the_frozen_sets(golden: Golden) -> None:
    frozen = golden("anchors")
    scores = torch.from_numpy(frozen["nms_scores"]).expand(20, -1)
    kept = suppress(masks(frozen["positive"]), scores, anchor_grid(256))
    assert torch.equal(kept, masks(frozen["kept"]))
    assert kept.sum(dim=1).tolist() == frozen["n_kept"].tolist()


def test_every_pick_is_a_frozen_positive_and_there_are_many(golden: Golden) -> None:
    frozen = golden("anchors")
    anchors, positive = anchor_grid(256), masks(frozen["positive"])
    picked = torch.zeros_like(positive)
    for seed in range(15):
        boxes = augment_boxes(torch.from_numpy(frozen["boxes"]), anchors, generator(seed))
        same = (boxes[:, None] == anchors).all(dim=2)
        assert (same.sum(dim=1) == 1).all()
        picked |= same
    assert not (picked & ~positive).any()
    assert (picked.sum(dim=1) >= 4).all()


def test_one_survivor_is_picked_uniformly() -> None:
    """Far apart anchors all survive: each is picked as often, and the box's best anchor is no favourite."""
    anchors = torch.tensor([[0.0, 0, 60, 100], [40.0, 0, 100, 100], [0.0, 0, 100, 60], [0.0, 40, 100, 100], [0.0, 0, 9, 9]])
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0]]).repeat(4000, 1)
    picked = augment_boxes(boxes, anchors, generator(0))
    share = (picked[:, None] == anchors).all(dim=2).float().mean(dim=0)
    assert share.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0], abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_suppression_equals_torchvisions(seed: int) -> None:
    random = generator(seed)
    corner = torch.rand(300, 2, generator=random) * 60
    anchors = torch.cat([corner, corner + 20 + torch.rand(300, 2, generator=random) * 30], dim=1)
    scores = torch.rand(6, 300, generator=random)
    positive = torch.rand(6, 300, generator=random) < torch.tensor([0.0, 0.01, 0.1, 0.5, 0.9, 1.0])[:, None]
    kept = suppress(positive, scores, anchors)
    assert torch.equal(kept, slow_suppress(positive, scores, anchors))
    assert 0 < kept.sum() < positive.sum()


def test_no_positive_and_no_row_keep_nothing() -> None:
    anchors = anchor_grid(64)
    assert not suppress(torch.zeros(2, 5120, dtype=torch.bool), torch.rand(2, 5120), anchors).any()
    assert suppress(torch.zeros(0, 5120, dtype=torch.bool), torch.rand(0, 5120), anchors).shape == (0, 5120)
    assert augment_boxes(torch.zeros(0, 4), anchors, generator(0)).shape == (0, 4)


@pytest.mark.parametrize("canvas", [64, 128, 256])
def test_every_augmented_box_overlaps_its_box_by_more_than_a_half(canvas: int) -> None:
    boxes = drawn_boxes(300, canvas)
    picked = augment_boxes(boxes, anchor_grid(canvas), generator(1))
    assert box_iou(boxes, picked).diag().min() > 0.5
    assert not (picked == boxes).all(dim=1).any()


def test_a_box_that_no_anchor_meets_stays_exact_among_others_that_move() -> None:
    boxes = torch.tensor([[100.0, 100, 104, 103], [40.0, 40, 180, 190], [3.0, 200, 253, 212]])
    picked = augment_boxes(boxes, anchor_grid(256), generator(0))
    assert torch.equal(picked[[0, 2]], boxes[[0, 2]])
    assert not torch.equal(picked[1], boxes[1])


def test_the_generator_alone_decides() -> None:
    boxes, anchors = drawn_boxes(32, 128), anchor_grid(128)
    torch.manual_seed(1)
    first = augment_boxes(boxes, anchors, generator(7))
    torch.manual_seed(2)
    assert torch.equal(augment_boxes(boxes, anchors, generator(7)), first)
    assert (augment_boxes(boxes, anchors, generator(8)) != first).any(dim=1).float().mean() > 0.5


@pytest.mark.parametrize("canvas", [256, 128])
def test_overlaps_and_numbers_of_positives_are_those_of_the_paper(canvas: int) -> None:
    boxes, anchors = drawn_boxes(4000, canvas), anchor_grid(canvas)
    number = torch.cat([(box_iou(part, anchors) > 0.5).sum(dim=1) for part in boxes.split(1000)]).numpy()
    assert np.percentile(number, [5, 50, 95]) == pytest.approx([31, 58, 178], rel=0.06)
    assert number.mean() == pytest.approx(73.5, rel=0.03)
    assert number.min() >= 8  # the exact box never steps in
    overlap = box_iou(boxes[:2000], augment_boxes(boxes[:2000], anchors, generator(0))).diag().numpy()
    assert overlap.mean() == pytest.approx(0.552, abs=0.004)
    assert np.percentile(overlap, [5, 50, 95]) == pytest.approx([0.503, 0.535, 0.662], abs=0.02)
