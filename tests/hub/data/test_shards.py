"""Tar shards: the samples of the unpacked folder, read in place; every way a tar can be broken is named."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from insloc_hub.data.cache import load_pixels
from insloc_hub.data.folder import ImageSet, is_source, list_classes, list_images, read_sample, sample_bytes
from insloc_hub.data.shards import read_index, read_member, shard_files
from insloc_hub.errors import BadData, BadImage

Pack = Callable[..., Path]


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + level, 9), (level, 0, 200)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """A tar of small pictures, each of another width and colour, called by its name."""

    def write(tar: str, *names: str, kind: int = tarfile.PAX_FORMAT) -> Path:
        path = tmp_path / "shards" / tar
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w", format=kind) as archive:
            for level, name in enumerate(names):
                member = tarfile.TarInfo(name)
                content = b"{}" if name.endswith((".json", ".txt")) else png(level)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write


def keys(images: ImageSet) -> list[str]:
    return [sample.key for sample in images.samples]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_gives_the_samples_of_its_unpacked_folder(pack: Pack, tmp_path: Path, kind: int) -> None:
    long = "dog/" + "d" * 90 + "/" + "e" * 90 + ".jpg"
    names = ["photos/dog/b.jpg", "photos/cat/größe.PNG", "photos/cat/a.webp", "photos/" + long, "photos/readme.txt"]
    path = pack("photos.tar", *names, kind=kind)
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for listing in (list_images, list_classes):
        packed, unpacked = listing(path), listing(tmp_path / "unpacked" / "photos")
        assert keys(packed) == keys(unpacked) == sorted(["dog/b.jpg", "cat/größe.PNG", "cat/a.webp", long])
        assert packed.classes == unpacked.classes and packed.fingerprint() == unpacked.fingerprint()
        for one, other in zip(packed.samples, unpacked.samples, strict=True):
            assert one.label == other.label and sample_bytes(one) == sample_bytes(other)
            assert torch.equal(read_sample(one), read_sample(other))


def test_several_tars_are_one_set_in_key_order(pack: Pack) -> None:
    pack("a.tar", "2.jpg", "4.jpg")
    folder = pack("b.tar", "3.jpg", "1.jpg").parent
    found = list_images(folder)
    assert keys(found) == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert [sample.path.name for sample in found.samples] == ["b.tar", "a.tar", "b.tar", "a.tar"]
    assert [read_sample(sample).shape[2] for sample in found.samples] == [9, 8, 8, 9]


def test_a_common_beginning_names_the_tars_of_one_half(pack: Pack) -> None:
    pack("train-000000.tar", "1.jpg", "2.jpg")
    pack("train-000001.tar", "3.jpg")
    folder = pack("val.tar", "4.jpg").parent
    assert keys(list_images(folder / "train")) == ["1.jpg", "2.jpg", "3.jpg"]
    assert keys(list_images(folder / "val")) == ["4.jpg"]
    assert len(list_images(folder)) == 4
    assert is_source(folder / "train") and not is_source(folder / "test")
    with pytest.raises(BadData, match="no such folder or file"):
        list_images(folder / "test")
    assert shard_files(folder / ("x" * 5000)) == () and shard_files(folder / "no" / "train") == ()


def test_other_members_and_hidden_ones_are_passed_over(pack: Pack) -> None:
    path = pack("a.tar", "./x/a.jpg", "x/a.json", "x/._a.jpg", "/x/b.JPEG", "x/c.gif", "jpg")
    assert keys(list_images(path)) == ["a.jpg", "b.JPEG"]


def test_names_without_folders_take_their_class_from_the_part_that_classes_json_knows(pack: Pack) -> None:
    path = pack("a.tar", "n02_7.jpg", "n01_3.jpg", "big_cat_1_2.jpg", "big_4.jpg")
    beside = path.parent / "classes.json"
    for content in ({"n02": [1, "dog"], "n01": [0, "cat"], "big": 2, "big_cat": 3}, ["big_cat", "n01", "n02", "big"]):
        beside.write_text(json.dumps(content))
        found = list_classes(path)
        assert found.classes == ("big", "big_cat", "n01", "n02")
        assert [(s.key, found.classes[s.label or 0]) for s in found.samples] == [
            ("big_4.jpg", "big"),
            ("big_cat_1_2.jpg", "big_cat"),
            ("n01_3.jpg", "n01"),
            ("n02_7.jpg", "n02"),
        ]
    beside.write_text('["n01", "n02"]')
    with pytest.raises(BadData, match=r"big_4.jpg begins with no class of classes.json"):
        list_classes(path)
    for text, problem in (("{", "is no JSON"), ("3", "must be an object"), ("[1, 2]", "must be an object")):
        beside.write_text(text)
        with pytest.raises(BadData, match=problem):
            list_classes(path)
    beside.unlink()
    with pytest.raises(BadData, match=r"no class folders, so classes.json must stand beside them"):
        list_classes(path)


def test_half_a_set_in_class_folders_is_refused(pack: Pack) -> None:
    with pytest.raises(BadData, match=r"1 images lie outside the tars' class folders, e.g. 3.jpg"):
        list_classes(pack("a.tar", "cat/1.jpg", "dog/2.jpg", "3.jpg"))


@pytest.mark.parametrize("listing", [list_images, list_classes])
def test_images_beside_tars_are_refused_instead_of_one_being_overlooked(
    pack: Pack, listing: Callable[[Path], ImageSet]
) -> None:
    folder = pack("a.tar", "cat/1.jpg", "dog/2.jpg").parent
    (folder / "3.jpg").write_bytes(b"x")
    with pytest.raises(BadData, match="1 tars and 1 images"):
        listing(folder)


def test_the_same_name_in_two_tars_is_refused(pack: Pack) -> None:
    pack("a.tar", "1.jpg", "2.jpg")
    with pytest.raises(BadData, match=r"'2.jpg' is there twice, here and in a.tar"):
        list_images(pack("b.tar", "2.jpg").parent)


def test_a_tar_without_an_image_is_refused(pack: Pack) -> None:
    for names in ((), ("a.txt",)):
        with pytest.raises(BadData, match=r"no image in 1 tar"):
            list_images(pack("a.tar", *names))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.77, 0.95])
def test_a_tar_that_is_cut_short_is_refused_wherever_the_cut_is(pack: Pack, share: float) -> None:
    path = pack("a.tar", *[f"{i}.jpg" for i in range(40)])
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512  # behind it only zeros follow
    data = path.read_bytes()
    for cut in (int(end * share), int(end * share) // 1024 * 1024, int(end * share) // 1024 * 1024 + 512):
        path.write_bytes(data[:cut])
        with pytest.raises(BadData, match=r"a\.tar: (the tar is cut short|a damaged or cut tar)"):
            list_images(path)


def test_a_damaged_header_is_refused_though_tarfile_takes_it_for_the_end(pack: Pack) -> None:
    path = pack("a.tar", *[f"{i}.jpg" for i in range(9)], kind=tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[4 * 1024 + 100] ^= 0xFF
    path.write_bytes(data)
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == 4
    with pytest.raises(BadData, match=r"a\.tar: the tar is damaged at byte 4,096"):
        list_images(path)


def test_what_cannot_be_read_in_place_is_refused(pack: Pack, tmp_path: Path) -> None:
    path = pack("a.tar", "1.jpg")
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    with pytest.raises(BadData, match=r"more data follow the tar's end"):
        list_images(path)
    for kind, reason in ((tarfile.SYMTYPE, "is a link"), (tarfile.LNKTYPE, "is a link"), (tarfile.FIFOTYPE, "plain file")):
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo("2.jpg")
            member.type, member.linkname = kind, "1.jpg"
            archive.addfile(member)
        with pytest.raises(BadData, match=f"2.jpg .*{reason}"):
            list_images(path)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("1.jpg"))
    with pytest.raises(BadData, match="or a compressed one"):
        list_images(path)
    with pytest.raises(BadData, match=r"no folder, no uncompressed .tar"):
        list_images(path.rename(path.parent / "a.tar.gz"))
    path.write_bytes(b"")
    with pytest.raises(BadData, match=r"a\.tar"):
        list_images(path)


def test_errors_of_a_member_name_tar_and_key(pack: Pack) -> None:
    path = pack("a.tar", "x.jpg", "y.jpg")
    data = path.read_bytes()
    sample = list_images(path).samples[0]
    assert sample.span is not None
    offset, size = sample.span
    path.write_bytes(data[:offset] + bytes(size) + data[offset + size :])
    with pytest.raises(BadImage, match=r"a\.tar: x\.jpg: not an image") as refusal:
        read_sample(sample)
    assert refusal.value.code == "unsupported_image"
    path.write_bytes(data[: offset + 3])
    with pytest.raises(BadImage, match=r"a\.tar: x\.jpg: .*shorter"):
        read_sample(sample)
    path.unlink()
    with pytest.raises(BadImage, match=r"a\.tar: x\.jpg: No such file") as refusal:
        sample_bytes(sample)
    assert refusal.value.code == "unreadable"


def test_an_unreadable_member_is_dropped_and_named_by_the_cache(pack: Pack) -> None:
    path = pack("a.tar", "1.jpg", "2.jpg", "3.jpg")
    sample = list_images(path).samples[1]
    assert sample.span is not None
    data = bytearray(path.read_bytes())
    data[sample.span[0] : sample.span[0] + 9] = bytes(9)
    path.write_bytes(data)
    pixels = load_pixels(list_images(path), 50, 2**30)
    assert keys(pixels.images) == ["1.jpg", "3.jpg"] and list(pixels.bad) == ["2.jpg"]


def test_an_index_reads_no_content(pack: Pack) -> None:
    """Only headers: the members' bytes may be anything."""
    path = pack("a.tar", "1.jpg", "2.jpg")
    members = read_index((path,), (".jpg",))
    assert [read_member(path, m.offset, m.size) for m in members] == [png(0), png(1)]
    assert read_index((), (".jpg",)) == []


def test_the_shared_shards_list_as_their_readme_says(insloc_data: Path) -> None:
    folder = insloc_data / "tiny-imagenet"
    train, val = list_classes(folder / "train"), list_classes(folder / "val")
    assert (len(train), len(val), len(train.classes)) == (25_000, 4_000, 200) and train.classes == val.classes
    assert sum(s.label == 7 for s in train.samples) == 125 and sum(s.label == 7 for s in val.samples) == 20
    named = json.loads((folder / "classes.json").read_text())
    assert all(s.label == named[s.key.split("_")[0]][0] for s in train.samples)
    assert read_sample(val.samples[0]).shape == (3, 64, 64)
