"""Every odd image: what it becomes, or the code it is refused with."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from insloc_hub.data.decode import ImageLimits, check_size, decode, from_pil, read
from insloc_hub.errors import BadImage

Encode = Callable[..., bytes]

# EXIF orientation -> what a viewer does to the stored pixels [h w 3]
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


def pixels(data: bytes) -> np.ndarray:
    """[h w 3] of what `decode` gives."""
    image = decode(data)
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


def refused(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(BadImage) as refusal:
        decode(data, limits or ImageLimits())
    assert len(str(refusal.value)) > 10
    return refusal.value.code


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(picture: np.ndarray, encode: Encode, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(picture), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels(data), UPRIGHT[orientation](picture))


def test_exif_orientation_of_a_jpeg_is_applied(picture: np.ndarray, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(picture), "JPEG", exif=exif, quality=100, subsampling=0)
    assert np.abs(pixels(data).astype(int) - UPRIGHT[6](picture)).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_keep_every_pixel(picture: np.ndarray, encode: Encode, kind: str) -> None:
    data = encode(Image.fromarray(picture), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels(data), picture)


def test_sixteen_bits_become_eight_by_257_over_the_whole_range(encode: Encode) -> None:
    ramp = np.linspace(0, 65535, 40 * 50).round().astype(np.uint16).reshape(40, 50)
    data = encode(Image.fromarray(ramp))
    decoded = pixels(data)
    assert np.abs(decoded - (ramp / 257)[:, :, None]).max() <= 1
    assert decoded.min() == 0 and decoded.max() == 255
    assert (decoded == decoded[:, :, :1]).all()


def test_grey_and_one_bit_images_become_three_equal_channels(picture: np.ndarray, encode: Encode) -> None:
    grey = picture[:, :, 0]
    assert np.array_equal(pixels(encode(Image.fromarray(grey))), np.repeat(grey[:, :, None], 3, axis=2))
    bits = Image.fromarray(grey > 100)
    assert np.array_equal(pixels(encode(bits))[:, :, 1], np.where(grey > 100, 255, 0))


def test_cmyk_is_converted(encode: Encode) -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    red = pixels(encode(cmyk, "JPEG", quality=95))[8, 8].astype(int)
    assert red[0] > 200 and red[1] < 60 and red[2] < 60


def test_alpha_lies_on_white(encode: Encode) -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :, 0] = 200
    rgba[:, :2, 3], rgba[:, 2:4, 3], rgba[:, 4:, 3] = 0, 128, 255
    for data in (encode(Image.fromarray(rgba)), encode(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)):
        row = pixels(data)[0].astype(int)
        assert row[0].tolist() == [255, 255, 255] and row[5].tolist() == [200, 0, 0]
        half = 128 / 255
        assert row[2] == pytest.approx([200 * half + 255 * (1 - half)] + [255 * (1 - half)] * 2, abs=1)


def test_grey_with_alpha_lies_on_white(encode: Encode) -> None:
    la = np.array([[[50, 0], [50, 255], [50, 51]]] * 3, np.uint8)
    row = pixels(encode(Image.fromarray(la, "LA")))[0].astype(int)
    assert row[0].tolist() == [255] * 3 and row[1].tolist() == [50] * 3
    assert row[2] == pytest.approx([50 * 0.2 + 255 * 0.8] * 3, abs=1)


def test_palettes_keep_their_colours_and_their_transparency_lies_on_white(encode: Encode) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 120, 30, 240, 5, 5])
    image.putpixel((0, 0), 2)
    plain = pixels(encode(image))
    assert plain[0, 0].tolist() == [240, 5, 5] and plain[1, 1].tolist() == [10, 120, 30]
    clear = pixels(encode(image, transparency=2))
    assert clear[0, 0].tolist() == [255, 255, 255] and clear[1, 1].tolist() == [10, 120, 30]


def test_a_transparent_colour_of_an_rgb_png_lies_on_white(encode: Encode) -> None:
    image = Image.new("RGB", (4, 4), (9, 8, 7))
    image.putpixel((0, 0), (1, 2, 3))
    decoded = pixels(encode(image, transparency=(1, 2, 3)))
    assert decoded[0, 0].tolist() == [255, 255, 255] and decoded[1, 1].tolist() == [9, 8, 7]


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_an_animation_is_its_first_frame(encode: Encode, kind: str) -> None:
    frames = [Image.new("RGB", (12, 9), colour) for colour in ((200, 10, 10), (10, 200, 10), (10, 10, 200))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames == 3
    assert np.abs(pixels(data).astype(int) - [200, 10, 10]).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "EPS", "PPM", "ICO", "PDF"])
def test_formats_beside_the_four_are_refused(picture: np.ndarray, encode: Encode, kind: str) -> None:
    assert refused(encode(Image.fromarray(picture), kind)) == "unsupported_image"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_image"),
        (b"this is a text file\n" * 40, "unsupported_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image"),
        (bytes(5000), "unsupported_image"),
        (b"\xff\xd8\xff\xe0", "unsupported_image"),
        (b"\x89PNG\r\n\x1a\n", "unsupported_image"),
    ],
)
def test_bytes_that_are_no_image_are_refused(data: bytes, code: str) -> None:
    assert refused(data) == code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_an_image_that_is_cut_short_is_refused(encode: Encode, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    assert refused(data[: int(len(data) * share)]) in ("image_truncated", "unsupported_image")


def test_a_png_with_damaged_data_is_refused(encode: Encode) -> None:
    data = bytearray(encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))))
    data[len(data) // 2] ^= 0xFF
    assert refused(bytes(data)) == "image_truncated"


def huge_png(w: int, h: int) -> bytes:
    """A PNG whose header promises w x h pixels; the data are a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = w.to_bytes(4, "big") + h.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 20_000, 60_000])
def test_too_many_pixels_are_refused_from_the_header_alone(side: int) -> None:
    """Not by an attempt: the data would give image_truncated, and 60,000 squared would take 10 GiB."""
    assert refused(huge_png(side, side)) == "image_too_large"


def test_limits_are_met_at_their_edges() -> None:
    limits = ImageLimits(pixels=1000, side=10, aspect=4)
    check_size((40, 10), limits)
    check_size((25, 40), limits)
    for size, code in (
        ((26, 40), "image_too_large"),
        ((9, 12), "image_too_small"),
        ((41, 10), "bad_aspect_ratio"),
        ((10, 41), "bad_aspect_ratio"),
    ):
        with pytest.raises(BadImage, match=f"{size[0]} x {size[1]} pixels") as refusal:
            check_size(size, limits)
        assert refusal.value.code == code


def test_the_smallest_pictures_pass_and_a_line_does_not(encode: Encode) -> None:
    assert pixels(encode(Image.new("RGB", (2, 2), (1, 2, 3)))).shape == (2, 2, 3)
    assert refused(encode(Image.new("RGB", (1, 5)))) == "image_too_small"
    assert refused(encode(Image.new("RGB", (2, 101)))) == "bad_aspect_ratio"


def test_a_file_is_decoded_like_its_bytes_and_named_in_errors(picture: np.ndarray, encode: Encode, tmp_path: Path) -> None:
    good, bad = tmp_path / "größe 図.png", tmp_path / "text.jpg"
    good.write_bytes(encode(Image.fromarray(picture)))
    bad.write_text("no image")
    assert np.array_equal(read(good).permute(1, 2, 0).numpy(), picture)
    for path, code in ((bad, "unsupported_image"), (tmp_path / "missing.png", "unreadable"), (tmp_path, "unreadable")):
        with pytest.raises(BadImage, match=path.name) as refusal:
            read(path)
        assert refusal.value.code == code


def test_a_picture_that_is_open_gives_the_same_pixels_as_its_file(picture: np.ndarray, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encode(Image.fromarray(picture), exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert torch.equal(from_pil(image), decode(data))
