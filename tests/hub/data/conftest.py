"""Pictures in every odd form that people have."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """A Pillow image as the bytes of a file."""

    def to_bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """20 x 30 pixels (h w 3) that are different under every flip and turn."""
    rows, columns = np.mgrid[0:20, 0:30]
    return np.stack([rows * 12, columns * 8, (rows // 10 * 2 + columns // 15) * 60 + 10], axis=2).astype(np.uint8)
