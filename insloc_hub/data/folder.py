"""A folder of images, tar shards, or a text file of paths -> samples in a stable order.

Keys are paths relative to the folder (or inside the tar) with forward slashes, sorted as text, so that the order depends
on no file system. The first folder of the key is the class, numbered in sorted name order (contracts.md 9); in tars
without folders it is what stands before an underscore in the name, of the names in the `classes.json` beside them.
A sample's bytes are had from `sample_bytes`, its pixels from `read_sample`, wherever it lies.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from insloc_hub.data.decode import SUFFIXES, TRUSTED, ImageLimits, decode_named, read_file
from insloc_hub.data.shards import Member, read_index, read_member, shard_files
from insloc_hub.errors import BadData, BadImage
from insloc_hub.files import digest
from insloc_hub.shapes import UInt8

CLASSES = "classes.json"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image. `label` is None where there are no classes."""

    key: str
    path: Path
    """Its file, or the tar that it lies in."""
    label: int | None = None
    span: tuple[int, int] | None = None
    """Offset and number of its bytes in the tar; None where it has a file of its own."""

    @property
    def where(self) -> str:
        """What errors name: the path, and the key where it lies in a tar."""
        return str(self.path) if self.span is None else f"{self.path}: {self.key}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """Samples in key order, with the names of their classes (empty without labels)."""

    root: Path
    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def fingerprint(self) -> str:
        """Digest of keys, labels and file sizes: it changes when an image is added, removed, renamed or replaced."""
        return digest([[s.key, s.label, s.path.stat().st_size if s.span is None else s.span[1]] for s in self.samples])


def sample_bytes(sample: Sample) -> bytes:
    """The encoded image. BadImage: the file or the tar can't be read; the text names it."""
    if sample.span is None:
        return read_file(sample.path)
    try:
        return read_member(sample.path, *sample.span)
    except BadImage as error:
        raise BadImage(error.code, f"{sample.where}: {error}") from None


def read_sample(sample: Sample, limits: ImageLimits = TRUSTED, at_least: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Pixels of the upright image; `at_least` as in `decode`. BadImage: names the sample."""
    return decode_named(sample_bytes(sample), sample.where, limits, at_least)


def is_source(source: Path) -> bool:
    """Whether something lies there that may hold images: a folder, a file, or tars of that name (`DIR/train`)."""
    return os.path.exists(source) or bool(shard_files(source))


def list_images(source: Path) -> ImageSet:
    """The images of a folder (recursive), of tar shards, or of a text file with one path a line; no labels.

    BadData: none there.
    """
    tars = shard_files(source)
    if source.is_dir():
        found = _walk(source)
        if found and tars:
            raise BadData(source, f"holds {len(tars)} tars and {len(found)} images beside them; name one of the two")
        if found:
            return ImageSet(root=source, samples=tuple(Sample(key, source / key) for key in found))
        if not tars:
            raise BadData(source, f"no image in this folder (looked below it for {', '.join(SUFFIXES)}, in it for .tar)")
    if tars:
        return ImageSet(root=source, samples=tuple(_sample(member, None) for member in _index(source, tars)))
    if source.is_file():
        return _from_list(source)
    raise BadData(source, "no such folder or file")


def list_classes(folder: Path) -> ImageSet:
    """The images of a folder whose subfolders are classes, or of tar shards.

    BadData: no class folder, or one without an image; tars whose names say no class.
    """
    tars = shard_files(folder)
    if tars:
        return _classes_in_tars(folder, tars)
    if not folder.is_dir():
        raise BadData(folder, "no such folder")
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(classes) < 2:
        raise BadData(folder, f"needs a subfolder for each class, at least 2; it has {len(classes)}")
    loose = [key for key in _walk(folder) if "/" not in key]
    if loose:
        raise BadData(folder, f"{len(loose)} images lie outside its class folders, e.g. {loose[0]}; move them into one")
    samples = [Sample(key, folder / key, classes.index(key.split("/")[0])) for key in _walk(folder)]
    empty = sorted(set(range(len(classes))) - {s.label for s in samples if s.label is not None})
    if empty:
        raise BadData(folder / classes[empty[0]], "a class folder without an image; remove it or fill it")
    return ImageSet(root=folder, samples=tuple(samples), classes=classes)


def _classes_in_tars(source: Path, tars: tuple[Path, ...]) -> ImageSet:
    members = _index(source, tars)
    if source.is_dir() and (loose := _walk(source)):
        raise BadData(source, f"holds {len(tars)} tars and {len(loose)} images beside them; name one of the two")
    inside = sum("/" in member.name for member in members)
    if inside:
        known = {member.name.split("/")[0] for member in members}
        if inside < len(members):
            flat = next(member.name for member in members if "/" not in member.name)
            raise BadData(source, f"{len(members) - inside} images lie outside the tars' class folders, e.g. {flat}")
        named = [member.name.split("/")[0] for member in members]
    else:
        known = _named_classes(tars[0].parent / CLASSES)
        named = [_class_before_underscore(member, known) for member in members]
    if len(known) < 2:
        raise BadData(source, f"needs a folder inside the tars for each class, at least 2; there is {len(known)}")
    classes = tuple(sorted(known))
    number = {name: position for position, name in enumerate(classes)}
    samples = tuple(_sample(member, number[name]) for member, name in zip(members, named, strict=True))
    return ImageSet(root=source, samples=samples, classes=classes)


def _named_classes(path: Path) -> set[str]:
    if not path.is_file():
        problem = f"the tars hold no class folders, so {path.name} must stand beside them and name the classes"
        raise BadData(path, f"{problem}, of images CLASS_anything.jpg")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadData(path, f"is no JSON ({error})") from None
    if not isinstance(content, dict | list) or not all(isinstance(name, str) for name in content):
        raise BadData(path, "must be an object whose keys are the classes, or a list of them")
    return set(content)


def _class_before_underscore(member: Member, known: set[str]) -> str:
    parts = member.name.split("_")
    for end in range(len(parts) - 1, 0, -1):
        if (name := "_".join(parts[:end])) in known:
            return name
    raise BadData(member.tar, f"{member.name} begins with no class of {CLASSES}")


def _index(source: Path, tars: tuple[Path, ...]) -> list[Member]:
    members = read_index(tars, SUFFIXES)
    if not members:
        raise BadData(source, f"no image in {len(tars)} tar(s) (looked for {', '.join(SUFFIXES)})")
    _check_text(source, [member.name for member in members])
    return members


def _sample(member: Member, label: int | None) -> Sample:
    return Sample(member.name, member.tar, label, (member.offset, member.size))


def _walk(folder: Path) -> list[str]:
    keys = []
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in sorted(real) if real[name] not in seen]  # a link can lead back to where we were
        seen |= set(real.values())
        base = Path(parent).relative_to(folder)
        keys += [(base / n).as_posix() for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    _check_text(folder, keys)
    return sorted(keys)


def _check_text(source: Path, keys: list[str]) -> None:
    for key in keys:
        if not _is_text(key):
            raise BadData(source, f"the file name {key!r} is not UTF-8, so it can't stand in a record; rename the file")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_list(source: Path) -> ImageSet:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise BadData(source, "no folder, no uncompressed .tar, and no text file with one image path a line") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise BadData(source, "this list of paths is empty")
    missing = [name for name in names if not os.path.isfile(source.parent / name)]  # is_file() raises for a name too long
    if missing:
        raise BadData(source, f"{len(missing)} of {len(names)} paths are no files, e.g. {missing[0]!r}")
    unique = sorted(set(names))
    if len(unique) < len(names):
        raise BadData(source, f"{len(names) - len(unique)} paths are there twice; each image must be named once")
    return ImageSet(root=source.parent, samples=tuple(Sample(name, source.parent / name) for name in unique))
