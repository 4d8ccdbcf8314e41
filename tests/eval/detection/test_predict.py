"""Answers in pixels of the original: boxes scaled and clipped, masks pasted at pixel centres."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from insloc_eval.detection.data import Sample
from insloc_eval.detection.predict import encode, in_original, paste, predict
from insloc_eval.protocols.detection import Detection


def slow_paste(mask: Tensor, box: list[float], size_wh: tuple[int, int]) -> Tensor:
    """Every pixel of the picture by itself: bilinear at its centre, zeros around the grid."""
    side = mask.shape[0]
    whole = torch.zeros(size_wh[1], size_wh[0], dtype=torch.bool)
    x1, y1, x2, y2 = box
    for y in range(size_wh[1]):
        for x in range(size_wh[0]):
            u = (x + 0.5 - x1) / (x2 - x1) * side - 0.5
            v = (y + 0.5 - y1) / (y2 - y1) * side - 0.5
            left, top = int(np.floor(u)), int(np.floor(v))
            value = 0.0
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                if 0 <= top + i < side and 0 <= left + j < side:
                    weight = (1 - abs(v - top - i)) * (1 - abs(u - left - j))
                    value += weight * mask[top + i, left + j].item()
            whole[y, x] = value >= 0.5
    inside = torch.zeros_like(whole)
    inside[max(int(y1), 0) : int(np.ceil(y2)), max(int(x1), 0) : int(np.ceil(x2))] = True
    return whole & inside


@pytest.mark.parametrize("box", [[3.3, 2.1, 17.8, 11.6], [-4.0, 5, 6, 30], [0.0, 0, 20, 15]])
def test_a_pasted_mask_equals_the_slow_version_pixel_by_pixel(box: list[float]) -> None:
    mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(3))
    assert torch.equal(paste(mask, torch.tensor(box), (20, 15)), slow_paste(mask, box, (20, 15)))


def test_a_box_without_area_or_outside_pastes_nothing() -> None:
    for box in ([5.0, 5, 5, 9], [30.0, 2, 40, 9]):
        assert not paste(torch.ones(7, 7), torch.tensor(box), (20, 15)).any()


def test_run_lengths_are_cocos_and_come_back() -> None:
    pixels = torch.rand(9, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    runs = encode(pixels)
    assert runs["size"] == [9, 5] and isinstance(runs["counts"], str)
    assert np.array_equal(coco_mask.decode(runs).astype(bool), pixels.numpy())


def test_boxes_leave_in_pixels_of_the_original_clipped_to_it() -> None:
    answer = {
        "boxes": torch.tensor([[10.0, 10, 40, 30], [-3, 0, 500, 90]]),
        "scores": torch.tensor([0.9, 0.2]),
        "labels": torch.tensor([1, 3]),
    }
    found = in_original(answer, (2.0, 0.5), (200, 100))
    assert found.boxes.tolist() == [[5, 20, 20, 60], [0, 0, 200, 100]]
    assert found.labels.tolist() == [0, 2] and found.masks is None


class Told(nn.Module):
    """A detector that answers with the size of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        h, w = images[0].shape[1:]
        boxes = torch.tensor([[0.0, 0, w, h]])
        return [{"boxes": boxes, "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.int64)}]


def test_every_picture_is_shown_at_test_size_and_answered_in_order(
    tiny: Callable[..., Detection], pictures: Callable[..., list[Sample]]
) -> None:
    samples = pictures(3)
    found = predict(Told().train(), samples, tiny(test_short_px=128, longest_px=160), None)
    assert [one.boxes.tolist()[0] for one in found] == [[0, 0, 96, 64], [0, 0, 64, 96], [0, 0, 96, 64]]
