"""The pixels of a set: what is kept, what is dropped and named, and that neither changes a pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from insloc_hub.data.cache import Pixels, load_pixels
from insloc_hub.data.folder import ImageSet, list_images
from insloc_hub.errors import BadData, BadImage

GIB = 2**30


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Five good images of several sizes between four files that are none."""
    generator = np.random.default_rng(0)
    for number, (h, w) in enumerate([(40, 60), (90, 30), (20, 20), (200, 300), (64, 64)]):
        Image.fromarray(generator.integers(0, 256, (h, w, 3), np.uint8)).save(tmp_path / f"good{number}.png")
    (tmp_path / "a text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "good3 cut.png").write_bytes((tmp_path / "good3.png").read_bytes()[:5000])
    Image.new("RGB", (1, 1)).save(tmp_path / "z point.png")
    return tmp_path


def load(folder: Path, budget: int = GIB, short_side: int = 50) -> Pixels:
    return load_pixels(list_images(folder), short_side, budget)


def test_bad_images_are_dropped_and_each_is_named_with_its_reason(mixed: Path) -> None:
    pixels = load(mixed)
    assert [sample.key for sample in pixels.images.samples] == [f"good{n}.png" for n in range(5)]
    assert sorted(pixels.bad) == ["a text.jpg", "empty.png", "good3 cut.png", "z point.png"]
    for key, reason in pixels.bad.items():
        assert str(mixed / key) in reason
    assert "empty" in pixels.bad["empty.png"] and "1 x 1" in pixels.bad["z point.png"]
    assert len(pixels) == 5


def test_an_index_is_its_images_pixels_reduced_to_the_short_side(mixed: Path) -> None:
    pixels = load(mixed)
    assert [tuple(pixels[i].shape) for i in range(5)] == [(3, 40, 60), (3, 90, 30), (3, 20, 20), (3, 50, 75), (3, 50, 50)]
    with Image.open(mixed / "good2.png") as image:
        assert np.array_equal(pixels[2].permute(1, 2, 0).numpy(), np.asarray(image))
    with Image.open(mixed / "good3.png") as image:  # antialiased: Pillow's is the other implementation there is
        reduced = np.asarray(image.resize((75, 50), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(pixels[3].permute(1, 2, 0).numpy() - reduced).max() <= 1


@pytest.mark.parametrize("budget", [0, 3 * 40 * 60, 3 * 40 * 60 + 3 * 90 * 30 + 3 * 20 * 20, GIB])
def test_pixels_are_the_same_whether_kept_or_read_again(mixed: Path, budget: int) -> None:
    pixels, all_kept = load(mixed, budget), load(mixed)
    assert sum(image.numel() for image in pixels.kept.values()) <= budget
    assert (len(pixels.kept) < 5) == (budget < GIB)
    for index in range(5):
        assert torch.equal(pixels[index], all_kept[index])


def test_the_fingerprint_is_that_of_the_readable_images(mixed: Path) -> None:
    before = load(mixed).images.fingerprint()
    for name in ("a text.jpg", "empty.png", "good3 cut.png", "z point.png"):
        (mixed / name).unlink()
    assert list_images(mixed).fingerprint() == before


@pytest.mark.parametrize("good", [0, 1])
def test_fewer_than_two_readable_images_are_refused_with_the_count_and_an_example(tmp_path: Path, good: int) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("no image")
    for number in range(good):
        Image.new("RGB", (8, 8)).save(tmp_path / f"good{number}.png")
    with pytest.raises(BadData, match=rf"at least 2 readable images; {good} of {3 + good} are; e.g. .*0\.jpg"):
        load(tmp_path)


def test_progress_is_told_for_every_image_good_or_bad(mixed: Path) -> None:
    told: list[int] = []
    load_pixels(list_images(mixed), 50, GIB, told.append)
    assert sum(told) == 9


def test_an_image_that_goes_away_later_is_an_error_that_names_it(mixed: Path) -> None:
    pixels: Pixels = load(mixed, budget=0)
    images: ImageSet = pixels.images
    images.samples[0].path.unlink()
    with pytest.raises(BadImage, match=r"good0\.png"):
        pixels[0]
