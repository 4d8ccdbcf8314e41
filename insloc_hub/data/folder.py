"""A folder of images, or a text file of paths -> samples in a stable order.

Keys are paths relative to the folder with forward slashes, sorted as text, so that the order depends on no file system.
Class folders give labels: the first folder of the key, numbered in sorted name order (contracts.md 9).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from insloc_hub.data.decode import SUFFIXES
from insloc_hub.errors import BadData
from insloc_hub.files import digest


@dataclass(frozen=True, slots=True)
class Sample:
    """One image file. `label` is None where there are no class folders."""

    key: str
    path: Path
    label: int | None = None


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
        return digest([[s.key, s.label, s.path.stat().st_size] for s in self.samples])


def list_images(source: Path) -> ImageSet:
    """The images of a folder (recursive) or of a text file with one path a line; no labels. BadData: none there."""
    if source.is_dir():
        found = _walk(source)
        if not found:
            raise BadData(source, f"no image in this folder (looked below it for {', '.join(SUFFIXES)})")
        return ImageSet(root=source, samples=tuple(Sample(key, source / key) for key in found))
    if source.is_file():
        return _from_list(source)
    raise BadData(source, "no such folder or file")


def list_classes(folder: Path) -> ImageSet:
    """The images of a folder whose subfolders are classes. BadData: no class folder, or one without an image."""
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


def _walk(folder: Path) -> list[str]:
    keys = []
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in sorted(real) if real[name] not in seen]  # a link can lead back to where we were
        seen |= set(real.values())
        base = Path(parent).relative_to(folder)
        keys += [(base / n).as_posix() for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    for key in keys:
        if not _is_text(key):
            raise BadData(folder, f"the file name {key!r} is not UTF-8, so it can't stand in a record; rename the file")
    return sorted(keys)


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
        raise BadData(source, "neither a folder nor a text file with one image path a line") from None
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
