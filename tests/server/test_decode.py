"""What odd images become (docs/serve.md): each against a plain twin."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from insloc_server.decode import decoded
from insloc_server.problems import Refusal


@pytest.fixture
def one(make_settings):
    """Pixels of one file under the server's limits."""
    return lambda data, **changes: next(iter(decoded([data], make_settings(**changes))))


def pixels(image):
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def pooled(response):
    assert response.status_code == 200, response.text
    return torch.tensor(response.json()["images"][0]["pooled"])


def test_sixteen_bit_png_is_divided_by_257(client, picture, packed, post_raw):
    grey = picture.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert torch.equal(pooled(post_raw(client, packed(deep))), pooled(post_raw(client, packed(grey))))


def test_a_sixteen_bit_ramp_keeps_its_shades(one, packed):
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (16, 1))
    wanted = ramp[0].astype(float) / 257
    assert float((one(packed(Image.fromarray(ramp)))[0, 0].double() - torch.from_numpy(wanted)).abs().max()) <= 1


def test_cmyk_jpeg_is_close_to_its_rgb_twin(one, client, picture, packed, post_raw):
    cmyk = packed(picture.convert("CMYK"), "JPEG", quality=95)
    rgb = packed(picture, "JPEG", quality=95)
    assert Image.open(io.BytesIO(cmyk)).mode == "CMYK"
    assert float((one(cmyk).float() - one(rgb).float()).abs().mean()) < 3
    a, b = pooled(post_raw(client, cmyk, kind="image/jpeg")), pooled(post_raw(client, rgb, kind="image/jpeg"))
    assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.99


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(client, picture, packed, post_raw, mode):
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (30, 20, 80, 60))
    flat = picture.convert("L").convert("RGB") if mode == "LA" else picture.copy()
    if mode == "P":
        palette = picture.quantize(200)
        index = int(np.asarray(palette)[40, 40])
        data = packed(palette, transparency=index)
        flat = palette.convert("RGB")
        hole = np.asarray(palette) == index
        assert hole.sum() > 0
        array = np.asarray(flat).copy()
        array[hole] = 255
        flat = Image.fromarray(array)
    else:
        image = picture.convert("L").convert("LA") if mode == "LA" else picture.convert("RGBA")
        image.putalpha(alpha)
        data = packed(image)
        flat.paste((255, 255, 255), (30, 20, 80, 60))
    assert torch.equal(pooled(post_raw(client, data)), pooled(post_raw(client, packed(flat))))


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_read(client, picture, packed, post_raw, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    moving = packed(picture, kind, save_all=True, append_images=[picture.rotate(30 * i) for i in range(1, 6)], **options)
    assert Image.open(io.BytesIO(moving)).n_frames == 6
    assert torch.equal(pooled(post_raw(client, moving)), pooled(post_raw(client, packed(picture))))


def test_damaged_exif_around_good_pixels_does_no_harm(one, picture, packed):
    """Found by fuzzing: Pillow's exif_transpose writes all tags anew, and fails on one that is not of its type."""
    exif = Image.Exif()
    exif[0x0112] = 3
    exif[0x011A] = 7.5  # XResolution: a rational
    data = bytearray(packed(picture, "JPEG", exif=exif, quality=90))
    at = data.index(b"\x01\x1a\x00\x05")
    data[at + 3] = 13  # of a type that there is not
    plain = one(packed(picture, "JPEG", quality=90))
    assert torch.equal(one(bytes(data)), plain.flip(1, 2))


def test_files_damaged_at_random_are_refused_with_a_code(make_settings, picture, packed):
    draw = np.random.Generator(np.random.PCG64(5))
    files = [packed(picture, "JPEG"), packed(picture), packed(picture, "WEBP"), packed(picture, "BMP")]
    outcomes = {"ok": 0}
    for number in range(400):
        data = bytearray(files[number % 4])
        for _ in range(int(draw.integers(1, 6))):
            data[int(draw.integers(0, len(data) if number % 2 else 100))] = int(draw.integers(0, 256))
        data = data[: int(draw.integers(1, len(data)))] if number % 5 == 0 else data
        try:
            (image,) = decoded([bytes(data)], make_settings())
            assert image.dtype == torch.uint8 and image.shape[0] == 3
            outcomes["ok"] += 1
        except Refusal as error:
            outcomes[error.code] = outcomes.get(error.code, 0) + 1
    assert outcomes["ok"] > 20 and outcomes["image_truncated"] > 20 and outcomes["unsupported_image"] > 20


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(50), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7", b"II*\x00" + bytes(99)]
)
def test_other_formats_are_not_opened(one, data):
    with pytest.raises(Refusal) as caught:
        one(data)
    assert (caught.value.code, caught.value.facts["index"]) == ("unsupported_image", 0)


def bomb(w, h):
    """A PNG that says it has this size, and has no pixels at all: whoever decodes it finds it cut short."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")


def test_the_limits_hold_from_the_header(one):
    with pytest.raises(Refusal) as caught:
        one(bomb(12_000, 12_000))
    assert caught.value.code == "image_too_large" and caught.value.facts == {"index": 0, "limit": 25_000_000}
    with pytest.raises(Refusal, match="cut short"):
        one(bomb(5_000, 5_000))
    for w, h, code in [(7, 100, "image_too_small"), (8, 401, "bad_aspect_ratio"), (50_000, 1, "image_too_small")]:
        with pytest.raises(Refusal) as caught:
            one(bomb(w, h))
        assert caught.value.code == code
    assert one(bomb_free(8, 400)).shape == (3, 400, 8)


def bomb_free(w, h):
    buffer = io.BytesIO()
    Image.new("RGB", (w, h)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_pixels_of_a_request_are_limited_together(make_settings, png):
    settings = make_settings(max_request_pixels=2 * 120 * 90 + 5)
    images = decoded([png, png, png], settings)
    assert next(images).shape == next(images).shape == (3, 90, 120)
    with pytest.raises(Refusal, match="together") as caught:
        next(images)
    assert caught.value.facts == {"index": 2, "limit": 2 * 120 * 90 + 5}


def test_pixels_are_those_of_the_file(one, picture, packed):
    for kind in ("PNG", "BMP"):
        assert torch.equal(one(packed(picture, kind)), pixels(picture))
