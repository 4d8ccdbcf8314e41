"""Bytes -> upright RGB uint8 pixels, with limits that hold before a single pixel is decoded. The house's only decoder.

What each odd image becomes is the table of docs/serve.md: EXIF orientation applied, alpha on white, 16 bit scaled by
257, CMYK and grey converted, first frame of an animation. Formats are a closed list: Pillow would otherwise start
other programs for some of them. Pillow reads every header; the pixels of a plain JPEG come from torchvision, half the time
and the same bits (both carry libjpeg-turbo), and from Pillow again where torchvision refuses what Pillow forgives.
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
from torchvision.io import ImageReadMode, decode_jpeg

from insloc_hub.errors import BadImage
from insloc_hub.shapes import UInt8

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TRANSPARENT_ON = (255, 255, 255)
PLAIN = ("RGB", "L")  # modes of a JPEG that needs no conversion of ours; the other one is CMYK
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT: dict[int, Callable[[Tensor], Tensor]] = {  # [3 h w] as stored -> as a viewer shows it
    2: lambda x: x.flip(2),
    3: lambda x: x.flip(1, 2),
    4: lambda x: x.flip(1),
    5: lambda x: x.transpose(1, 2),
    6: lambda x: x.transpose(1, 2).flip(2),
    7: lambda x: x.transpose(1, 2).flip(1, 2),
    8: lambda x: x.transpose(1, 2).flip(1),
}
SIDEWAYS = (5, 6, 7, 8)  # width and height change places
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


def decode(data: bytes, limits: ImageLimits = TRUSTED, at_least: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Pixels of the upright image. BadImage: with the code and the reason.

    With `at_least`, a JPEG whose short side is at least twice as many pixels comes at 1/2, 1/4 or 1/8 of its size, but not
    with a shorter side: the decoder then leaves out frequencies that nobody will see.
    """

    def pixels(image: Image.Image) -> Tensor:
        plain = image.format == "JPEG" and image.mode in PLAIN
        return _jpeg(data, image, at_least) if plain else from_pil(image)

    return _opened(data, limits, pixels)


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


def decode_named(data: bytes, where: str, limits: ImageLimits = TRUSTED, at_least: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """`decode`, with `where` before what an error says. BadImage."""
    try:
        return decode(data, limits, at_least)
    except BadImage as error:
        raise BadImage(error.code, f"{where}: {error}") from None


def from_pil(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Pixels of a picture that is open already: upright, RGB, alpha on white; in memory row by row, pixel by pixel."""
    image.load()  # some formats give the EXIF at the end
    return _upright(torch.from_numpy(_rgb(image)).permute(2, 0, 1), image)


def check_size(size_wh: tuple[int, int], limits: ImageLimits) -> None:
    """BadImage where width and height break the limits."""
    w, h = size_wh
    if w * h > limits.pixels:
        raise BadImage("image_too_large", f"{w} x {h} pixels are more than the limit of {limits.pixels:,}")
    if min(w, h) < limits.side:
        raise BadImage("image_too_small", f"{w} x {h} pixels: a side is below the limit of {limits.side}")
    if max(w, h) > limits.aspect * min(w, h):
        raise BadImage("bad_aspect_ratio", f"{w} x {h} pixels: one side is over {limits.aspect:g} times the other")


def _jpeg(data: bytes, image: Image.Image, at_least: int | None) -> UInt8[Tensor, "3 h w"]:
    if at_least is not None and min(image.size) >= 2 * at_least:
        image.draft(image.mode, (at_least, at_least))
        return from_pil(image)
    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:  # e.g. no end marker behind the last line: Pillow judges
        return from_pil(image)
    return _upright(pixels, image)


def _upright(pixels: Tensor, image: Image.Image) -> Tensor:
    """As ImageOps.exif_transpose, which however writes all the EXIF anew and fails where some of it is damaged."""
    turn = UPRIGHT.get(_orientation(image))
    return pixels if turn is None else turn(pixels)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    if image.format == "PNG":
        image.load()  # its EXIF may stand at the end
    w, h = image.size
    return (h, w) if _orientation(image) in SIDEWAYS else (w, h)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, struct.error):
        return 1  # damaged EXIF around good pixels
    return orientation if isinstance(orientation, int) else 1


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """[h w 3] as stored."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image, dtype=np.int64)
        scaled = np.clip((grey + SIXTEEN_BIT // 2) // SIXTEEN_BIT, 0, 255).astype(np.uint8)
        return np.repeat(scaled[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        alpha = image.convert("RGBA")
        canvas = Image.new("RGBA", alpha.size, (*TRANSPARENT_ON, 255))
        return np.array(Image.alpha_composite(canvas, alpha).convert("RGB"))
    return np.array(image.convert("RGB"))
