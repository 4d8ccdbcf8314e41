"""Tar shards read in place: an index of offsets once, then any image by one seek, nothing unpacked.

A source is a .tar file, a folder of them, or the common beginning of their names: DIR/train stands for DIR/train.tar and
DIR/train-*.tar where there is no folder of that name. Written by us because readers of this format stream; a run that
resumes at any step needs random access.
"""

import itertools
import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from insloc_hub.errors import BadData, BadImage

SUFFIX = ".tar"
BLOCK = 512  # bytes: of a header, and what members are padded to


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar."""

    name: str
    """With forward slashes, no leading `./`."""
    tar: Path
    offset: int
    """Of the first byte of its content in the tar."""
    size: int
    """Bytes."""


def shard_files(source: Path) -> tuple[Path, ...]:
    """The tars that `source` stands for, in name order; none where it is something else."""
    if source.suffix.lower() == SUFFIX and os.path.isfile(source):
        return (source,)
    if os.path.isdir(source):
        return tuple(sorted(p for p in source.iterdir() if p.suffix.lower() == SUFFIX and _is_shard(p)))
    if os.path.exists(source) or not os.path.isdir(source.parent):  # exists() of a Path raises for a name too long
        return ()
    return tuple(p for p in shard_files(source.parent) if p.stem == source.name or p.name.startswith(f"{source.name}-"))


def read_index(tars: tuple[Path, ...], suffixes: tuple[str, ...]) -> list[Member]:
    """The members of all `tars` whose names end in one of `suffixes` (lower case), in the order of their names.

    A folder that all of them lie in (`photos/` of `tar cf photos.tar photos`) is left out of the names, so that the names
    are those below the unpacked folder. BadData: a tar is damaged, cut short or compressed, or holds what can't be read
    in place; a name is there twice.
    """
    members = [member for tar in tars for member in _members(tar, suffixes)]
    above = _common_folder([member.name for member in members])
    named = [Member(m.name[len(above) :], m.tar, m.offset, m.size) for m in members]
    named.sort(key=lambda member: member.name)
    for one, other in itertools.pairwise(named):
        if one.name == other.name:
            raise BadData(other.tar, f"the name {one.name!r} is there twice, here and in {one.tar.name}; rename one of them")
    return named


def read_member(tar: Path, offset: int, size: int) -> bytes:
    """The content of a member. BadImage (unreadable): the tar is gone, or shorter than when it was indexed."""
    try:
        with tar.open("rb", buffering=0) as handle:
            data = os.pread(handle.fileno(), size, offset)
    except OSError as error:
        raise BadImage("unreadable", error.strerror or str(error)) from None
    if len(data) < size:
        raise BadImage("unreadable", "the tar has become shorter since it was listed")
    return data


def _is_shard(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _members(path: Path, suffixes: tuple[str, ...]) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:") as tar:
            for item in tar:
                tar.members = []  # type: ignore[attr-defined]  # it keeps all it has seen: gigabytes for a large set
                name = str(PurePosixPath(item.name.lstrip("/")))
                if item.isdir() or not name.lower().endswith(suffixes) or name.split("/")[-1].startswith("."):
                    continue
                yield Member(_checked(path, item, name), path, item.offset_data, item.size)
            end = tar.offset
        _check_end(path, end)
    except (tarfile.TarError, EOFError) as error:
        raise BadData(path, f"a damaged or cut tar, or a compressed one, which can't be read in place ({error})") from None
    except OSError as error:
        raise BadData(path, error.strerror or str(error)) from None


def _checked(path: Path, item: tarfile.TarInfo, name: str) -> str:
    if item.issym() or item.islnk():
        raise BadData(path, f"{name} is a link; pack the images themselves: tar --dereference --hard-dereference")
    if not item.isreg() or item.issparse():
        raise BadData(path, f"{name} is not stored as a plain file; pack it again without --sparse")
    return name


def _check_end(path: Path, end: int) -> None:
    """A tar ends in zeros. tarfile takes anything else for the end too: a damaged header, a cut between two members."""
    with path.open("rb") as handle:
        handle.seek(end)
        first = handle.read(BLOCK)
        if len(first) < BLOCK or any(first):
            what = "cut short" if len(first) < BLOCK else "damaged"
            raise BadData(path, f"the tar is {what} at byte {end:,}: no further member and no end follows. Copy it again")
        while block := handle.read(1 << 20):
            if any(block):
                raise BadData(path, f"more data follow the tar's end at byte {end:,}; joined tars must be kept apart")


def _common_folder(names: list[str]) -> str:
    """The folders that all names begin with, with a slash at the end, or nothing.

    >>> _common_folder(["a/b/cat/1.jpg", "a/b/dog/2.jpg"])
    'a/b/'
    """
    common = posixpath.commonpath([posixpath.dirname(name) for name in names]) if names else ""
    return f"{common}/" if common else ""
