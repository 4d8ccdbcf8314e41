"""Batch statistics by group, and the shuffle that goes with them."""

import pytest
import torch
from torch import Tensor, nn

from insloc_hub.parallel.groupbn import draw_shuffle, forward_in_groups


class Norm(nn.Module):
    """BatchNorm of images, its mean over space plus the box's first coordinate as the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return (self.norm(images).mean(dim=(2, 3)) + boxes[:, :1])[:, None]


def batch(b: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(b, 3, 4, 4, generator=generator, dtype=torch.float64) + torch.arange(b).view(-1, 1, 1, 1)
    return images, torch.arange(4.0 * b, dtype=torch.float64).view(b, 4)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_group_is_normalised_by_its_own_statistics(groups: int) -> None:
    images, boxes = batch(8)
    parts = []
    for part in images.chunk(groups):
        mean, var = part.mean(dim=(0, 2, 3), keepdim=True), part.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        parts.append(((part - mean) / (var + 1e-5).sqrt()).mean(dim=(2, 3)))
    closed = torch.cat(parts) + boxes[:, :1]
    out = forward_in_groups(Norm().double(), images, boxes, groups)
    assert out.shape == (8, 1, 3)
    assert torch.allclose(out[:, 0], closed, atol=1e-12)


def test_running_statistics_move_once_per_group() -> None:
    images, boxes = batch(8)
    encoder = Norm().double()
    forward_in_groups(encoder, images, boxes, 4)
    running = torch.zeros(3, dtype=torch.float64)
    for part in images.chunk(4):
        running = 0.9 * running + 0.1 * part.mean(dim=(0, 2, 3))
    assert int(encoder.norm.num_batches_tracked) == 4
    assert torch.allclose(encoder.norm.running_mean, running, atol=1e-12)


def test_the_shuffle_is_a_permutation_and_its_inverse_undoes_it() -> None:
    shuffle = draw_shuffle(16, torch.Generator().manual_seed(3))
    x = torch.arange(16) * 10
    assert sorted(shuffle.order.tolist()) == list(range(16)) and shuffle.order.tolist() != list(range(16))
    assert torch.equal(x[shuffle.order][shuffle.inverse], x)
    again, other = (draw_shuffle(16, torch.Generator().manual_seed(seed)) for seed in (3, 4))
    assert torch.equal(again.order, shuffle.order) and not torch.equal(other.order, shuffle.order)


def test_shuffled_groups_give_rows_back_in_place_but_with_other_company() -> None:
    images, boxes = batch(8)
    shuffle = draw_shuffle(8, torch.Generator().manual_seed(0))
    plain = forward_in_groups(Norm().double(), images, boxes, 2)
    shuffled = forward_in_groups(Norm().double(), images[shuffle.order], boxes[shuffle.order], 2)[shuffle.inverse]
    closed = torch.empty_like(plain)
    for group in shuffle.order.chunk(2):
        closed[group] = forward_in_groups(Norm().double(), images[group], boxes[group], 1)
    assert torch.allclose(shuffled, closed, atol=1e-12)
    assert not torch.allclose(shuffled, plain, atol=1e-3)
