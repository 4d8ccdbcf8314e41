"""Region means against torchvision's RoIAlign: equal sampling, boxes at, over and beyond the border, tiny boxes."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from insloc_hub.boxes.means import region_means

H, W, STRIDE = 9, 13, 16  # an odd map that is not square: a swap of axes shows
H_PX, W_PX = H * STRIDE, W * STRIDE


def slow_means(maps: Tensor, boxes: list[Tensor], sampling: int, bins: int = 7) -> list[Tensor]:
    """roi_align over the clipped boxes, then the mean of the grid."""
    limit = torch.tensor([W_PX, H_PX, W_PX, H_PX], dtype=maps.dtype)
    clipped = [rows.to(maps).clamp(min=0).minimum(limit) for rows in boxes]
    grids = roi_align(maps, clipped, bins, spatial_scale=1 / STRIDE, sampling_ratio=sampling, aligned=True)
    return list(grids.mean(dim=(2, 3)).split([len(rows) for rows in boxes]))


def random_boxes(n: int, generator: torch.Generator) -> Tensor:
    """Anywhere, from a pixel to the whole map, many partly outside."""
    centre = torch.rand(n, 2, generator=generator) * torch.tensor([W_PX, H_PX])
    half = torch.exp(torch.rand(n, 2, generator=generator) * 5)
    return torch.cat([centre - half, centre + half], dim=1)


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return torch.randn(3, 5, H, W, generator=torch.Generator().manual_seed(0))


EDGES = [
    [0.0, 0.0, W_PX, H_PX],
    [0.0, 0.0, 1.0, 1.0],
    [W_PX - 1.0, H_PX - 1.0, W_PX, H_PX],
    [W_PX - 3.0, 0.0, W_PX, 2.0],
    [50.0, 40.0, 50.4, 40.3],
    [0.0, 0.0, 112.0, 112.0],  # bins of exactly one cell: the adaptive count hangs on the last bit
    [16.0, 16.0, 16.0 + 7 * 16, 16.0 + 7 * 16],
    [-100.0, -50.0, 60.0, 60.0],
    [150.0, 100.0, 999.0, 999.0],
    [-1000.0, -1000.0, 1000.0, 1000.0],
]


@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_equal_torchvisions_at_equal_sampling(maps: Tensor, sampling: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = [random_boxes(40, generator), torch.tensor(EDGES), random_boxes(7, generator)]
    for ours, slow in zip(
        region_means(maps.to(dtype), boxes, 1 / STRIDE, sampling=sampling),
        slow_means(maps.to(dtype), boxes, sampling),
        strict=True,
    ):
        assert ours.dtype == dtype
        assert (ours - slow).abs().max() < (2e-6 if dtype == torch.float32 else 1e-13)


def test_the_two_samplings_differ(maps: Tensor) -> None:
    """So that the test above would see them mixed up."""
    boxes = [torch.tensor([[11.0, 5, 83, 70]])] * 3  # bins under a cell: adaptive takes one point each
    adaptive, two = (torch.cat(region_means(maps, boxes, 1 / STRIDE, sampling=s)) for s in (0, 2))
    assert (adaptive - two).abs().max() > 1e-3


@pytest.mark.parametrize("bins", [1, 3, 14])
def test_other_grids_equal_torchvisions_too(maps: Tensor, bins: int) -> None:
    boxes = [random_boxes(20, torch.Generator().manual_seed(bins)) for _ in range(3)]
    ours = region_means(maps, boxes, 1 / STRIDE, bins=bins)
    assert (torch.cat(ours) - torch.cat(slow_means(maps, boxes, 0, bins))).abs().max() < 2e-6


def test_images_without_boxes_give_no_rows(maps: Tensor) -> None:
    means = region_means(maps, [torch.zeros(0, 4), torch.tensor([[1.0, 2, 30, 40]]), torch.zeros(0, 4)], 1 / STRIDE)
    assert [tuple(rows.shape) for rows in means] == [(0, 5), (1, 5), (0, 5)]
    assert region_means(maps[:0], [], 1 / STRIDE) == []


def test_every_box_is_taken_from_its_own_image(maps: Tensor) -> None:
    box = torch.tensor([[8.0, 8, 120, 90]])
    means = region_means(maps, [box, box, box], 1 / STRIDE)
    for number in range(3):
        alone = region_means(maps[number : number + 1], [box], 1 / STRIDE)[0]
        assert torch.allclose(means[number], alone, atol=1e-6)
    assert not torch.allclose(means[0], means[1])


def test_the_mean_of_a_flat_map_is_its_value_wherever_the_box_lies() -> None:
    flat = torch.full((1, 2, H, W), 3.5)
    assert torch.allclose(region_means(flat, [torch.tensor(EDGES)], 1 / STRIDE)[0], torch.tensor(3.5), atol=1e-5)


def test_the_mean_of_a_slope_is_its_height_at_the_middle_of_the_box() -> None:
    """A closed form: cell i has its centre at (i + 0.5) * stride, so the value at x is x / stride - 0.5."""
    slope = torch.arange(W, dtype=torch.float64).expand(1, 1, H, W)
    boxes = torch.tensor([[40.0, 30, 100, 90], [16.0, 16, 160, 40]])
    middle = (boxes[:, 0] + boxes[:, 2]).double() / 2 / STRIDE - 0.5
    assert torch.allclose(region_means(slope, [boxes], 1 / STRIDE)[0][:, 0], middle, atol=1e-12)


def test_as_many_lists_of_boxes_as_maps_are_needed(maps: Tensor) -> None:
    with pytest.raises(ValueError, match="zip"):
        region_means(maps, [torch.zeros(0, 4)], 1 / STRIDE)
