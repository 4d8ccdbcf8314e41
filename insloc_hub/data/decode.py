"""Bytes -> upright RGB uint8 pixels, with limits that hold before a single pixel is decoded. The house's only decoder.

What each odd image becomes is the table of docs/serve.md: EXIF orientation applied, alpha on white, 16 bit scaled by
257, CMYK and grey converted, first frame of an animation. Formats are a closed list: Pillow would otherwise start
other programs for some of them.
"""

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from insloc_hub.errors import BadImage
from insloc_hub.shapes import UInt8

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TRANSPARENT_ON = (255, 255, 255)
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {UPRIGHT[code] for code in (5, 6, 7, 8)}
SIXTEEN_BIT = 257  # 65535 / 255: Pillow's own conversion clips instead (python-pillow/Pillow #2574)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """What an image must keep to; checked from its header."""

    pixels: int = 100_000_000
    """Width times height."""
    side: int = 2
    """Shortest side in pixels: below it there is no picture to resize."""
    aspect: float = 50.0
    """Longer side over shorter side."""


TRUSTED = ImageLimits()


def decode(data: bytes, limits: ImageLimits = TRUSTED) -> UInt8[Tensor, "3 h w"]:
    """Pixels of the upright image. BadImage: with the code and the reason."""
    return _opened(data, limits, from_pil)


def upright_size(data: bytes, limits: ImageLimits = TRUSTED) -> tuple[int, int]:
    """Width and height of what `decode` gives, mostly from the header alone. BadImage."""
    return _opened(data, limits, _upright_size)


def _opened(data: bytes, limits: ImageLimits, use: Callable[[Image.Image], T]) -> T:
    if not data:
        raise BadImage("empty_image", "the image is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that `limits` refuses or allows anyway
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(image.size, limits)
                return use(image)
        except UnidentifiedImageError:
            raise BadImage("unsupported_image", f"not an image in one of the formats {', '.join(FORMATS)}") from None
        except Image.DecompressionBombError:
            raise BadImage("image_too_large", f"more pixels than the limit of {limits.pixels:,}") from None
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
            raise BadImage("image_truncated", f"the image is damaged or cut short ({error})") from None


def read(path: Path, limits: ImageLimits = TRUSTED) -> UInt8[Tensor, "3 h w"]:
    """`decode` of a file; errors name the file. BadImage."""
    return decode_named(read_file(path), str(path), limits)


def read_file(path: Path) -> bytes:
    """The bytes of an image file. BadImage (unreadable): names the file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage("unreadable", f"{path}: {error.strerror or error}") from None


def decode_named(data: bytes, where: str, limits: ImageLimits = TRUSTED) -> UInt8[Tensor, "3 h w"]:
    """`decode`, with `where` before what an error says. BadImage."""
    try:
        return decode(data, limits)
    except BadImage as error:
        raise BadImage(error.code, f"{where}: {error}") from None


def from_pil(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Pixels of a picture that is open already: upright, RGB, alpha on white."""
    return torch.from_numpy(_upright_rgb(image)).permute(2, 0, 1).contiguous()


def check_size(size_wh: tuple[int, int], limits: ImageLimits) -> None:
    """BadImage where width and height break the limits."""
    w, h = size_wh
    if w * h > limits.pixels:
        raise BadImage("image_too_large", f"{w} x {h} pixels are more than the limit of {limits.pixels:,}")
    if min(w, h) < limits.side:
        raise BadImage("image_too_small", f"{w} x {h} pixels: a side is below the limit of {limits.side}")
    if max(w, h) > limits.aspect * min(w, h):
        raise BadImage("bad_aspect_ratio", f"{w} x {h} pixels: one side is over {limits.aspect:g} times the other")


def _upright(image: Image.Image) -> Image.Image:
    """As ImageOps.exif_transpose, which however writes all the EXIF anew and fails where some of it is damaged."""
    image.load()  # some formats give the EXIF at the end
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    if image.format == "PNG":
        image.load()  # its EXIF may stand at the end
    w, h = image.size
    return (h, w) if _turn(image) in SIDEWAYS else (w, h)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, struct.error):
        return None  # damaged EXIF around good pixels
    return UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _upright_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    upright = _upright(image)
    if upright.mode.startswith("I;16") or upright.mode == "I":
        grey = np.asarray(upright, dtype=np.int64)
        scaled = np.clip((grey + SIXTEEN_BIT // 2) // SIXTEEN_BIT, 0, 255).astype(np.uint8)
        return np.repeat(scaled[:, :, None], 3, axis=2)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        alpha = upright.convert("RGBA")
        canvas = Image.new("RGBA", alpha.size, (*TRANSPARENT_ON, 255))
        return np.asarray(Image.alpha_composite(canvas, alpha).convert("RGB")).copy()
    return np.asarray(upright.convert("RGB")).copy()
