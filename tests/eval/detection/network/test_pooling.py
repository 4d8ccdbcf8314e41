"""RoIAlign and anchors against slow versions, and where torchvision's own give other numbers."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from insloc_eval.detection.network.pooling import Anchors, Pooler

STRIDES = {"0": 4, "1": 8, "2": 16, "3": 32}


def maps(side: int = 256, channels: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {n: torch.rand(2, channels, side // s, side // s, generator=generator).double() for n, s in STRIDES.items()}
    return OrderedDict(made)


def slow_roi_align(one: Tensor, box: Tensor, stride: int, size: int) -> Tensor:
    """[c size size]: the mean of ceil(bin side)^2 bilinear samples a bin, pixel centres at .5, edges repeated to one cell."""
    x1, y1, x2, y2 = (float(v) / stride - 0.5 for v in box)
    bin_w, bin_h = (x2 - x1) / size, (y2 - y1) / size
    across, down = max(1, -int(-bin_w // 1)), max(1, -int(-bin_h // 1))
    out = torch.zeros(one.shape[0], size, size, dtype=one.dtype)
    for row in range(size):
        for column in range(size):
            for i in range(down):
                for j in range(across):
                    y = y1 + bin_h * (row + (i + 0.5) / down)
                    x = x1 + bin_w * (column + (j + 0.5) / across)
                    out[:, row, column] += bilinear(one, y, x) / (down * across)
    return out


def bilinear(one: Tensor, y: float, x: float) -> Tensor:
    h, w = one.shape[1:]
    if y < -1 or y > h or x < -1 or x > w:
        return torch.zeros(one.shape[0], dtype=one.dtype)
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    dy, dx = y - top, x - left
    return (
        one[:, top, left] * (1 - dy) * (1 - dx)
        + one[:, top, right] * (1 - dy) * dx
        + one[:, bottom, left] * dy * (1 - dx)
        + one[:, bottom, right] * dy * dx
    )


BOXES = [
    torch.tensor([[10.0, 20, 130, 90], [3, 3, 20, 9], [0, 0, 256, 256]]).double(),
    torch.tensor([[100.0, 5, 230, 250], [60, 60, 61, 61]]).double(),
]


@pytest.mark.parametrize("size", [7, 14])
def test_regions_of_a_pyramid_equal_the_slow_version_box_by_box(size: int) -> None:
    given = maps()
    ours = Pooler(STRIDES, size)(given, BOXES, [(256, 256)] * 2)
    rows = []
    for image, boxes in enumerate(BOXES):
        for box in boxes:
            side = float((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
            level = next((number for number, most in enumerate([112, 224, 448]) if side < most), 3)
            rows.append(slow_roi_align(given[str(level)][image], box, 4 << level, size))
    assert ours.shape == (5, 2, size, size)
    assert (ours - torch.stack(rows)).abs().max() < 1e-12


def test_regions_of_a_single_map_equal_the_slow_version() -> None:
    given = maps()
    ours = Pooler({"2": 16}, 14)(given, BOXES, [(256, 256)] * 2)
    rows = [slow_roi_align(given["2"][i], box, 16, 14) for i, boxes in enumerate(BOXES) for box in boxes]
    assert (ours - torch.stack(rows)).abs().max() < 1e-12


LEVELS = [(0, 0), (1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447.9, 2), (448, 3), (5000, 3)]


@pytest.mark.parametrize(("side", "level"), LEVELS)
def test_a_box_goes_to_the_level_of_its_side(side: float, level: int) -> None:
    """paper.md C.3: floor(4 + log2(side / 224)), held to P2..P5."""
    box = torch.tensor([[10.0, 10, 10 + side, 10 + side]], dtype=torch.float64)
    assert Pooler(STRIDES, 7).level_of(box).tolist() == [level]


def test_no_boxes_give_no_regions() -> None:
    empty = [torch.zeros(0, 4), torch.zeros(0, 4)]
    given = {name: one.float() for name, one in maps().items()}
    assert Pooler(STRIDES, 7)(given, empty, [(256, 256)] * 2).shape == (0, 2, 7, 7)
    some = Pooler(STRIDES, 7)(given, [torch.zeros(0, 4), torch.tensor([[3.0, 3, 9, 9]])], [(256, 256)] * 2)
    assert some.shape == (1, 2, 7, 7)


def test_torchvisions_pooler_is_neither_aligned_nor_adaptive() -> None:
    """Why ours stands in its place: the same boxes, on the same levels, are half a cell off."""
    given, shapes = maps(), [(256, 256)] * 2
    theirs = MultiScaleRoIAlign(list(STRIDES), 7, sampling_ratio=2)(given, BOXES, shapes)
    gap = (Pooler(STRIDES, 7)(given, BOXES, shapes) - theirs).abs().amax(dim=(1, 2, 3))
    assert gap.min() > 0.05
    moved = [boxes + 0.5 * torch.tensor([[s] * 4 for s in strides]) for boxes, strides in zip(BOXES, [(4, 4, 16), (8, 4)])]  # noqa: B905
    adaptive = MultiScaleRoIAlign(list(STRIDES), 7, sampling_ratio=0)(given, BOXES, shapes)
    assert (Pooler(STRIDES, 7)(given, moved, shapes) - adaptive)[:4].abs().max() < 1e-6  # not the last: it is widened to a cell


def anchors_of(kind: type[AnchorGenerator], size: tuple[int, int], stride: int) -> Tensor:
    h, w = size
    pixels, one = torch.zeros(1, 3, h, w), torch.zeros(1, 1, -(-h // stride), -(-w // stride))
    ratios = (0.5, 1.0, 2.0)
    made = Anchors(((32, 64),), ratios, (stride,)) if kind is Anchors else AnchorGenerator(((32, 64),), (ratios,))
    return made(ImageList(pixels, [size]), [one])[0]


def test_anchors_stand_on_multiples_of_the_stride_with_the_areas_and_ratios_asked() -> None:
    boxes = anchors_of(Anchors, (64, 96), 16).double().reshape(4, 6, 3, 2, 4)  # rows, columns, ratios, sizes
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    ratios = torch.tensor([0.5, 1.0, 2.0]).double()[:, None].expand(4, 6, 3, 2)
    assert torch.allclose(h / w, ratios, rtol=1e-6)
    assert torch.allclose(h * w, torch.tensor([32.0, 64]).double().square().expand(4, 6, 3, 2), rtol=1e-6)
    x, y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    assert torch.allclose(x[2, 5], torch.tensor(80.0).double(), atol=1e-5) and torch.allclose(
        y[2, 5], torch.tensor(32.0).double(), atol=1e-5
    )


def test_every_image_of_a_batch_has_the_anchors_of_all_maps() -> None:
    made = Anchors(((32,), (64,)), (1.0,), (8, 16))
    rows = made(ImageList(torch.zeros(2, 3, 32, 32), [(32, 32), (30, 31)]), [torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 2, 2)])
    assert len(rows) == 2 and rows[0].shape == (16 + 4, 4) and torch.equal(rows[0], rows[1])
    assert rows[0][1].tolist() == [8 - 16, -16, 8 + 16, 16] and rows[0][-1].tolist() == [16 - 32, 16 - 32, 16 + 32, 16 + 32]
    assert made.num_anchors_per_location() == [1, 1]


def test_torchvisions_anchors_are_rounded_and_otherwise_the_same() -> None:
    ours, theirs = anchors_of(Anchors, (64, 96), 16), anchors_of(AnchorGenerator, (64, 96), 16)
    assert torch.equal(theirs, theirs.round())
    assert 0.1 < (ours - theirs).abs().max() <= 0.5


def test_torchvision_guesses_another_stride_where_the_map_does_not_divide_the_image() -> None:
    """A 70 px side gives 5 cells of stride 16; torchvision takes 70 // 5 = 14."""
    ours, theirs = anchors_of(Anchors, (70, 70), 16), anchors_of(AnchorGenerator, (70, 70), 16)
    assert float(ours[-1].mean() - ours[0].mean()) == pytest.approx(64) and float(theirs[-1].mean() - theirs[0].mean()) == 56
