"""Listing a folder or a list of paths: order, labels, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_hub.data.folder import ImageSet, list_classes, list_images
from insloc_hub.errors import BadData

Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Files of a byte each under tmp_path/images; their listing needs no pixels."""

    def write(*keys: str) -> Path:
        for key in keys:
            path = tmp_path / "images" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path / "images"

    return write


def keys(images: ImageSet) -> list[str]:
    return [sample.key for sample in images.samples]


def test_images_are_found_at_any_depth_in_text_order_whatever_their_case(fill: Fill) -> None:
    folder = fill("b/10.jpg", "b/9.JPG", "a.png", "B.webp", "b/c/d/e.JPEG", "z.bmp", "a/x.jpg")
    found = list_images(folder)
    assert keys(found) == ["B.webp", "a.png", "a/x.jpg", "b/10.jpg", "b/9.JPG", "b/c/d/e.JPEG", "z.bmp"]
    assert [sample.path for sample in found.samples] == [folder / key for key in keys(found)]
    assert found.classes == () and {sample.label for sample in found.samples} == {None}


def test_other_files_and_hidden_ones_are_passed_over(fill: Fill) -> None:
    folder = fill("a.jpg", "b.txt", "c.gif", ".hidden.jpg", ".cache/d.jpg", "jpg", "e.jpg.part", "x/._f.jpg")
    assert keys(list_images(folder)) == ["a.jpg"]


def test_names_beyond_ascii_are_kept(fill: Fill) -> None:
    names = ["größe.jpg", "図/写真.png", "é è.jpg", "🐕.webp", "日本語 スペース.bmp"]
    found = list_images(fill(*names))
    assert sorted(keys(found)) == sorted(names) and keys(found) == sorted(names)
    assert len(found.fingerprint()) == 64


def test_a_name_that_is_no_text_is_refused_by_name(fill: Fill) -> None:
    folder = fill("a.jpg")
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))).write_bytes(b"x")
    with pytest.raises(BadData, match=r"caf.*UTF-8"):
        list_images(folder)


def test_a_link_to_a_folder_is_followed_and_one_in_a_circle_is_not(fill: Fill, tmp_path: Path) -> None:
    folder = fill("a.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jpg").write_bytes(b"x")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert keys(list_images(folder)) == ["a.jpg", "more/b.jpg"]


@pytest.mark.parametrize("files", [(), ("a.txt",), (".hidden.jpg",)])
def test_a_folder_without_an_image_is_refused(fill: Fill, tmp_path: Path, files: tuple[str, ...]) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(BadData, match=r"no image in this folder .*\.jpg"):
        list_images(fill(*files))


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for read in (list_images, list_classes):
        with pytest.raises(BadData, match="no such folder") as refusal:
            read(tmp_path / "nowhere")
        assert refusal.value.path == str(tmp_path / "nowhere")


def test_classes_are_numbered_in_name_order_by_the_first_folder(fill: Fill) -> None:
    folder = fill("dog/1.jpg", "cat/2.jpg", "dog/deep/0.jpg", "Zebra/x.png", "ähre/y.jpg")
    found = list_classes(folder)
    assert found.classes == ("Zebra", "cat", "dog", "ähre")
    assert [(s.key, s.label) for s in found.samples] == [
        ("Zebra/x.png", 0),
        ("cat/2.jpg", 1),
        ("dog/1.jpg", 2),
        ("dog/deep/0.jpg", 2),
        ("ähre/y.jpg", 3),
    ]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (("cat/1.jpg",), "at least 2; it has 1"),
        (("1.jpg", "2.jpg"), "at least 2; it has 0"),
        (("cat/1.jpg", ".dog/1.jpg"), "at least 2; it has 1"),
        (("cat/1.jpg", "dog/1.jpg", "3.jpg"), "1 images lie outside its class folders, e.g. 3.jpg"),
        (("cat/1.jpg", "dog/readme.txt"), "dog: a class folder without an image"),
    ],
)
def test_folders_that_are_no_classes_are_refused(fill: Fill, files: tuple[str, ...], problem: str) -> None:
    with pytest.raises(BadData, match=problem):
        list_classes(fill(*files))


def write_list(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_list_names_paths_beside_it_with_comments_and_blank_lines(fill: Fill) -> None:
    folder = fill("b.jpg", "x/ä.jpg", "c.jpg")
    found = list_images(write_list(folder, f"# mine\nx/ä.jpg\r\n\n  b.jpg  \n{folder / 'c.jpg'}\n"))
    assert keys(found) == sorted(["x/ä.jpg", "b.jpg", str(folder / "c.jpg")])
    assert all(sample.path.is_file() for sample in found.samples)


def test_a_list_with_a_byte_order_mark_is_read(fill: Fill) -> None:
    folder = fill("a.jpg", "b.jpg")
    assert keys(list_images(write_list(folder, b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n"))) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("# only words\n\n", "is empty"),
        ("a.jpg\nnot here.jpg\nnor.jpg\n", "2 of 3 paths are no files, e.g. 'not here.jpg'"),
        ("a.jpg\nb.jpg\na.jpg\nb.jpg\n", "2 paths are there twice"),
        ("a.jpg\n" + "x" * 5000, "1 of 2 paths are no files"),
        ("a.jpg\n.\n", "1 of 2 paths are no files"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "no folder, no uncompressed .tar, and no text file"),
        (b"a.jpg\x00\n", "1 of 1 paths are no files"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(fill: Fill, text: str | bytes, problem: str) -> None:
    with pytest.raises(BadData, match=problem):
        list_images(write_list(fill("a.jpg", "b.jpg"), text))


def test_the_fingerprint_changes_with_names_labels_sizes_and_number(fill: Fill, tmp_path: Path) -> None:
    folder = fill("cat/1.jpg", "dog/2.jpg")
    first = list_images(folder).fingerprint()
    assert list_images(folder).fingerprint() == first
    seen = {first, list_classes(folder).fingerprint()}
    (folder / "cat/1.jpg").write_bytes(b"other")
    seen.add(list_images(folder).fingerprint())
    (folder / "cat/1.jpg").rename(folder / "cat/3.jpg")
    seen.add(list_images(folder).fingerprint())
    fill("dog/4.jpg")
    seen.add(list_images(folder).fingerprint())
    assert len(seen) == 5


def test_the_fingerprint_is_the_same_wherever_the_folder_lies(fill: Fill, tmp_path: Path) -> None:
    folder = fill("a.jpg", "b/c.jpg")
    before = list_images(folder).fingerprint()
    assert list_images(folder.rename(tmp_path / "moved")).fingerprint() == before
