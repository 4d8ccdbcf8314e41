"""Both ways of the blur against scipy's and against each other."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from insloc_hub.compositor.blur import blur, convolved, kernel
from insloc_hub.demo.world import draw


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Six pictures of 70 x 96 pixels: no multiple of a block, and not square."""
    pictures = [torch.from_numpy(draw(0, index, (70, 96)).pixels).permute(2, 0, 1) for index in range(6)]
    return torch.stack(pictures).float()


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    result = images.clone()
    blur(result, sigma)
    return result


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2, 0.34, 0.5, 1.0, 2.0, 5.0, 30.0])
def test_blur_is_scipys_with_repeated_edges_cut_at_three_sigma(images: Tensor, sigma: float) -> None:
    slow = gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="nearest", radius=int(np.ceil(3 * sigma)))
    all_alike = torch.full((6,), sigma)
    for made in (blurred(images, all_alike), convolved(images, all_alike)):
        assert np.abs(made.numpy() - slow).max() < 0.01  # of 255: under a sigma of 0.2 nothing is done


def test_what_three_sigma_leave_out_is_less_than_half_a_level(images: Tensor) -> None:
    whole = gaussian_filter(images.double().numpy(), (0, 0, 2.0, 2.0), mode="nearest", truncate=8)
    assert np.abs(blurred(images, torch.full((6,), 2.0)).numpy() - whole).max() < 0.5


def test_each_image_is_blurred_by_its_own_sigma_whatever_its_company(images: Tensor) -> None:
    sigma = torch.tensor([0.7, 0.0, 2.0, 0.3, 0.0, 1.0])
    together = blurred(images, sigma)
    assert torch.equal(together[[1, 4]], images[[1, 4]])
    chosen = sigma > 0
    assert (convolved(images[chosen], sigma[chosen]) - together[chosen]).abs().max() < 2e-3
    for row in range(6):
        assert torch.equal(together[row], blurred(images[row : row + 1], sigma[row : row + 1])[0])


def test_a_batch_without_a_blur_or_without_an_image_is_left_alone(images: Tensor) -> None:
    assert torch.equal(blurred(images, torch.zeros(6)), images)
    assert blurred(images[:0], torch.zeros(0)).shape == (0, 3, 70, 96)


def test_a_flat_image_stays_flat() -> None:
    flat = torch.full((1, 3, 17, 5), 200.0)
    assert torch.allclose(blurred(flat, torch.tensor([1.5])), flat, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0])
def test_the_kernel_sums_to_one_is_symmetric_and_has_its_sigma(sigma: float) -> None:
    taps = kernel(sigma).double()
    radius = len(taps) // 2
    assert len(taps) % 2 == 1 and radius == np.ceil(3 * sigma)
    assert float(taps.sum()) == pytest.approx(1, abs=1e-6) and torch.equal(taps, taps.flip(0))
    assert float(taps[radius + 1] / taps[radius]) == pytest.approx(np.exp(-0.5 / sigma**2), rel=1e-4, abs=1e-12)
