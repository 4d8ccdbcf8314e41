"""A folder of Hub repositories on disk: which there are, their revisions, their files with digests. No network, no torch.

FOLDER/ORG/NAME/ has one of two forms. A published folder as it is: branch `main`, its commit a hash of names and bytes. Or
what `insloc pull` keeps: a folder for each commit, called by its 40 hex digits, and `.refs.json`, which says what `main` is.

What a request names is only compared with what was listed, never joined to a path; links, hidden and odd names are not listed.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from insloc_hub.files import sha256_file

log = logging.getLogger(__name__)

REFS = ".refs.json"  # {"main": commit, ...}; hidden, so that it is never taken for a file of a model
MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
REPO_ID = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,95})/([A-Za-z0-9_][A-Za-z0-9_.-]{0,95})")
# The Hub keeps such files outside git and names them by sha256 (compat.md 3.2); a big file is one whatever its name.
LARGE_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".pkl", ".onnx", ".npz")
LARGE_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Digests:
    """How the Hub names a file's bytes."""

    oid: str
    """git's blob id: of the bytes, or of the pointer that stands for a large file."""
    sha256: str | None
    """Of the bytes of a large file; None for a small one."""
    pointer_size: int
    """Bytes of that pointer; 0 for a small file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepoFile:
    """A file of a revision."""

    name: str
    """Path inside the repository, with slashes."""
    path: Path
    stat: os.stat_result
    """As it was when the digests were taken."""
    digests: Digests


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """A repository at one commit."""

    repo: str
    commit: str
    files: dict[str, RepoFile]
    """By name, sorted."""


class Repos:
    """The repositories under a folder, read anew at each call; a file is hashed again only when it has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[tuple[str, int, int, int], Digests] = {}

    def ids(self) -> list[str]:
        """ORG/NAME of every repository that has a file, sorted."""
        found = [f"{org}/{name}" for org in _folders(self.root) for name in _folders(self.root / org)]
        return sorted(repo for repo in found if self.refs(repo))

    def refs(self, repo: str) -> dict[str, str | None]:
        """Branches and tags of a repository and their commits; None: to be computed from the files. {}: no such one."""
        folder = self.folder(repo)
        if folder is None:
            return {}
        try:
            if not (folder / REFS).is_file():
                return {MAIN: None} if any(True for _ in list_files(folder)) else {}
            refs = read_refs(folder)
        except (OSError, ValueError) as error:
            log.warning("%s can't be read: %s", folder, error)
            return {}
        return {name: commit for name, commit in refs.items() if commit in self._commits(repo)}

    def folder(self, repo: str) -> Path | None:
        """The folder of a repository; None: there is none, or it is no id of one."""
        match = REPO_ID.fullmatch(repo)
        if not match or match[1] not in _folders(self.root) or match[2] not in _folders(self.root / match[1]):
            return None
        return self.root / match[1] / match[2]

    def revision(self, repo: str, name: str) -> Revision | None:
        """The repository at a branch, tag or commit. None: there is no such revision. OSError: a file can't be read."""
        folder, refs = self.folder(repo), self.refs(repo)
        if folder is None:
            return None
        if MAIN in refs and refs[MAIN] is None:
            files = self.files(folder)
            commit = commit_of(files)
            return Revision(repo=repo, commit=commit, files=files) if name in (MAIN, commit) else None
        known = name if name in self._commits(repo) else refs.get(name)
        return Revision(repo=repo, commit=known, files=self.files(folder / known)) if known else None

    def files(self, folder: Path) -> dict[str, RepoFile]:
        """Every file below `folder` that has a usable name. OSError: one can't be read."""
        found = {}
        for name, path in sorted(list_files(folder)):
            stat = path.lstat()
            key = (str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size)
            digests = self._known.get(key) or self._known.setdefault(key, read_digests(path, stat.st_size))
            found[name] = RepoFile(name=name, path=path, stat=stat, digests=digests)
        return found

    def _commits(self, repo: str) -> list[str]:
        folder = self.folder(repo)
        kept = folder is not None and (folder / REFS).is_file()
        return [name for name in _folders(folder) if COMMIT.fullmatch(name)] if kept and folder else []


def read_refs(folder: Path) -> dict[str, str]:
    """Branch or tag -> commit, of a repository that `insloc pull` keeps. OSError, ValueError: not there, or edited by hand."""
    refs = json.loads((folder / REFS).read_text(encoding="utf-8"))
    if not isinstance(refs, dict) or not all(isinstance(c, str) and COMMIT.fullmatch(c) for c in refs.values()):
        raise ValueError("it is no table of branches and commits of 40 hex digits")
    return refs


def list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name with slashes, path) of each regular file below a folder, in no order; links and unusable names left out."""
    waiting = [("", folder)]
    while waiting:
        above, here = waiting.pop()
        for entry in os.scandir(here):
            if not usable(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append((f"{above}{entry.name}/", Path(entry.path)))
            elif entry.is_file(follow_symlinks=False):
                yield f"{above}{entry.name}", Path(entry.path)


def usable(name: str) -> bool:
    """Whether a file of this name is shown to anybody: not hidden, printable, the same on every system.

    >>> [usable(name) for name in ("config.json", ".git", "..", "a\\\\b", "")]
    [True, False, False, False, False]
    """
    return bool(name) and name[0] != "." and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def commit_of(files: dict[str, RepoFile]) -> str:
    """40 hex digits made of names and bytes: the same folder has the same commit wherever it is served."""
    state = hashlib.sha1(usedforsecurity=False)
    for name in sorted(files):
        state.update(f"{name}\0{files[name].digests.sha256 or files[name].digests.oid}\n".encode())
    return state.hexdigest()


def read_digests(path: Path, size: int) -> Digests:
    """The digests of a file's bytes as they are now. OSError."""
    if size <= LARGE_BYTES and path.suffix not in LARGE_SUFFIXES:
        return Digests(oid=git_blob(path.read_bytes()), sha256=None, pointer_size=0)
    sha256 = sha256_file(path)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return Digests(oid=git_blob(pointer), sha256=sha256, pointer_size=len(pointer))


def git_blob(data: bytes) -> str:
    """git's id of these bytes as a file.

    >>> git_blob(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder that could be an ORG or a NAME; links are none."""
    try:
        return [e.name for e in os.scandir(folder) if usable(e.name) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
