"""Batch statistics by group, and the shuffle that goes with them."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from insloc_hub.contrast.infonce import infonce
from insloc_hub.encoders.build import build_encoder
from insloc_hub.parallel.groupbn import draw_shuffle, forward_at_once, forward_in_groups
from insloc_hub.recipe import Recipe


class Norm(nn.Module):
    """BatchNorm of images, its mean over space plus the box's first coordinate as the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return (self.norm(images).mean(dim=(2, 3)) + boxes[:, 0, :1])[:, None]


def batch(b: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(b, 3, 4, 4, generator=generator, dtype=torch.float64) + torch.arange(b).view(-1, 1, 1, 1)
    return images, torch.arange(4.0 * b, dtype=torch.float64).view(b, 1, 4)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_group_is_normalised_by_its_own_statistics(groups: int) -> None:
    images, boxes = batch(8)
    parts = []
    for part in images.chunk(groups):
        mean, var = part.mean(dim=(0, 2, 3), keepdim=True), part.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        parts.append(((part - mean) / (var + 1e-5).sqrt()).mean(dim=(2, 3)))
    closed = torch.cat(parts) + boxes[:, 0, :1]
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


ARCHS = [("c4", "resnet10t"), ("c4", "regnetx_002"), ("fpn", "resnet10t"), ("whole", "mobilenetv3_small_050")]


@pytest.mark.parametrize(("variant", "arch"), ARCHS)
def test_all_groups_at_once_equal_one_after_the_other(tiny: Callable[..., Recipe], variant: str, arch: str) -> None:
    """Outputs, gradients and running statistics; timm's fused norms and the head that mixes four levels included."""
    levels = 4 if variant == "fpn" else 1
    augment = {"augment_levels": (False,) * levels, "level_weights": (1.0,) * levels}
    one = build_encoder(dataclasses.replace(tiny(), variant=variant, arch=arch, **augment)).double()
    other = copy.deepcopy(one)
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.tensor([[8.0, 4, 60, 50]], dtype=torch.float64).expand(8, 1, 4).repeat(1, levels, 1)
    slow, fast = forward_in_groups(one, images, boxes, 2), forward_at_once(other, images, boxes, 2)
    assert torch.allclose(slow, fast, atol=1e-10) and not torch.allclose(slow, one(images, boxes), atol=1e-3)
    slow.pow(3).sum().backward()
    fast.pow(3).sum().backward()
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        assert mine.grad is None or torch.allclose(mine.grad, theirs.grad, atol=1e-10), name


def test_running_statistics_at_once_move_once_per_group_too() -> None:
    images, boxes = batch(8)
    one, other = Norm().double(), Norm().double()
    forward_in_groups(one, images, boxes, 4)
    forward_at_once(other, images, boxes, 4)
    assert torch.allclose(one.norm.running_mean, other.norm.running_mean, atol=1e-12)
    assert torch.allclose(one.norm.running_var, other.norm.running_var, atol=1e-12)
    assert int(other.norm.num_batches_tracked) == 1  # a counter of steps
    before = other.norm.running_mean.clone()
    assert torch.equal(forward_at_once(other.eval(), images, boxes, 4), other(images, boxes))
    assert torch.equal(before, other.norm.running_mean)


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


class Blind(nn.Module):
    """Sees nothing of its own image: each has one pixel of content and one that is 0, and only the latter is read.

    What BatchNorm makes of the 0 is minus mean over spread: a signature of the company.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return nn.functional.normalize(self.norm(images)[:, :, 0, 1], dim=1)[:, None]


@pytest.mark.parametrize(("groups", "low", "high"), [(1, 1.0, 1.0), (8, 0.0, 0.2)])
def test_a_blind_network_recognises_its_keys_by_their_company_with_one_group_and_not_with_shuffled_ones(
    groups: int, low: float, high: float
) -> None:
    """The cheat of MoCo, sec. 3.3: query and key of a batch share its statistics, the queue's older keys do not."""
    generator = torch.Generator().manual_seed(0)
    encoder, boxes = Blind(3), torch.zeros(32, 1, 4)

    def keys_of(content: Tensor) -> Tensor:
        images = torch.stack([content, torch.zeros_like(content)], dim=2)[:, :, None]
        shuffle = draw_shuffle(32, generator)
        return forward_in_groups(encoder, images[shuffle.order], boxes, groups)[shuffle.inverse]

    past = [keys_of(torch.randn(32, 3, generator=generator) + 0.5) for _ in range(8)]
    queue = torch.cat(past).permute(1, 2, 0)
    content = torch.randn(32, 3, generator=generator) + 0.5  # of the instance: both views have it
    images = torch.stack([content, torch.zeros_like(content)], dim=2)[:, :, None]
    query = forward_in_groups(encoder, images, boxes, groups)
    _, accuracy = infonce(query, keys_of(content), queue, 0.2)
    assert low <= float(accuracy) <= high
