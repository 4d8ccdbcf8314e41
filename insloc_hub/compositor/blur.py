"""Gaussian blur of whole images, each with a sigma of its own: separable, edges repeated, cut off at three sigma.

On a CPU each axis is a product with a banded matrix, block by block: a sixth of the arithmetic of the whole matrix, at the
speed of a matrix product. On an accelerator it is one grouped convolution. Both are the same sums.
"""

import math

import torch
from torch import Tensor

from insloc_hub.shapes import Float

BLOCK = 16  # output pixels of one small product: 8 and 32 were slower at 128 and 256 px
SHARP = 0.2  # sigma below which a pixel's neighbours weigh under exp(-12.5): a hundredth of a level at most
LEAST = 1e-12  # a weight that can't be seen; denormal ones take some processors a hundred cycles each


def blur(images: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"]) -> None:
    """Blur each image in place by its sigma in pixels; 0, and what is too little to be seen, leaves it untouched."""
    chosen = (sigma > SHARP).nonzero().flatten().tolist()
    if images.device.type == "cpu":
        for row in chosen:
            rows = band(kernel(float(sigma[row])))
            images[row] = _last_axis(_last_axis(images[row], rows), rows).permute(2, 0, 1)  # 3 h w -> w 3 h -> h w 3
    elif chosen:
        where = torch.tensor(chosen, device=images.device)
        images[where] = convolved(images[where], sigma[chosen])


def kernel(sigma: float) -> Float[Tensor, " taps"]:
    """Weights at -radius..radius, radius = 3 sigma rounded up; their sum is 1."""
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    total = sum(weights)
    return torch.tensor([weight / total if weight > LEAST else 0.0 for weight in weights])


def band(taps: Float[Tensor, " taps"]) -> Float[Tensor, "block reach"]:
    """The matrix that takes BLOCK + taps - 1 pixels to BLOCK blurred ones: each row is the kernel, one pixel on."""
    reach = BLOCK + len(taps) - 1
    rows = taps.new_zeros(BLOCK, reach)
    rows.as_strided((BLOCK, len(taps)), (reach + 1, 1)).copy_(taps)
    return rows


def convolved(images: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
    """Each image blurred by its sigma (all above 0), by two grouped convolutions."""
    kernels = [kernel(value) for value in sigma.tolist()]
    radius = max(len(taps) for taps in kernels) // 2
    padded_taps = [torch.nn.functional.pad(taps, (radius - len(taps) // 2,) * 2) for taps in kernels]
    weights = torch.stack(padded_taps).to(images).repeat_interleave(3, dim=0)
    n, (h, w) = len(weights), images.shape[2:]
    padded = torch.nn.functional.pad(images.reshape(1, n, h, w), (radius,) * 4, mode="replicate")
    across = torch.nn.functional.conv2d(padded, weights[:, None, None, :], groups=n)
    return torch.nn.functional.conv2d(across, weights[:, None, :, None], groups=n).view(images.shape)


def _last_axis(image: Float[Tensor, "p q n"], rows: Float[Tensor, "block reach"]) -> Float[Tensor, "n p q"]:
    """Blurred along its last axis, which comes first in the result: a product reads its input transposed for nothing."""
    p, q, n = image.shape
    block, reach = rows.shape
    blocks, radius = -(-n // block), (reach - block) // 2
    sides = (radius, radius + blocks * block - n, 0, 0)
    padded = torch.nn.functional.pad(image[None], sides, mode="replicate")[0]
    windows = padded.as_strided((blocks, reach, p * q), (block, 1, padded.shape[2]))
    return torch.bmm(rows.expand(blocks, block, reach), windows).view(blocks * block, p, q)[:n]
