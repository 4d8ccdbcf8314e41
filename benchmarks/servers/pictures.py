"""The images that are asked about: drawn noise of a photograph's spectrum, as JPEG. No torch: the client draws them itself."""

import io

import numpy as np
from PIL import Image

QUALITY = 90
SIZE_WH = (500, 375)  # of a usual photograph of ImageNet
MIXED_WH = ((500, 375), (375, 500), (640, 480), (256, 256), (97, 311), (800, 200), (61, 64), (333, 250))


def picture(seed: int, size_wh: tuple[int, int] = SIZE_WH) -> bytes:
    """A JPEG of colour noise whose amplitude falls as 1 / frequency, as that of photographs does: it costs what they cost."""
    width, height = size_wh
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    falling = 1 / np.maximum(frequency, 1 / max(size_wh))
    phases = np.exp(2j * np.pi * generator.random((height, width // 2 + 1, 3)))
    noise = np.fft.irfft2(falling[..., None] * phases, s=(height, width), axes=(0, 1))
    pixels = np.clip(127.5 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def usual(count: int) -> list[bytes]:
    """`count` pictures of one size, for what is timed."""
    return [picture(seed) for seed in range(count)]


def mixed(count: int) -> list[bytes]:
    """`count` pictures of eight sizes in turn, for the comparison of what the servers answer."""
    return [picture(1000 + seed, MIXED_WH[seed % len(MIXED_WH)]) for seed in range(count)]
