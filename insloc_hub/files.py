"""Write files whole, name them by content, know where ours live.

A reader never sees half a file: bytes go to a temporary name in the same folder, are fsynced, and renamed.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from insloc_hub.errors import CannotWrite


def home() -> Path:
    """Where cards and caches are kept: $INSLOC_HOME, or ~/.cache/insloc."""
    return Path(os.environ.get("INSLOC_HOME") or Path.home() / ".cache" / "insloc").expanduser()


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary)` and rename the result to `path`; on any failure `path` is as it was. CannotWrite."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from None
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        _sync(part)
        part.chmod(0o666 & ~_umask())  # mkstemp and safetensors give 0600: useless to a server of another account
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise CannotWrite(path, error.strerror or str(error)) from None
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` whole."""
    write_whole(path, lambda part: _discard(part.write_bytes(data)))


def write_text(path: Path, text: str) -> None:
    """Write `text` whole, as UTF-8 with the line ends it has."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON that a person can read; a NaN is refused, since no standard reader takes it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_writable(folder: Path) -> None:
    """Prove that `folder` can be made and filled, without making it, before hours of work depend on it. CannotWrite."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise CannotWrite(folder, f"{place} is a file")
    try:
        handle, name = tempfile.mkstemp(prefix=".probe.", dir=place)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise CannotWrite(folder, error.strerror or str(error)) from None


def sha256_file(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex sha256 of a JSON-able value, independent of the order of keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        # Some file systems can't fsync a folder; the rename is still atomic there.
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _discard(value: object) -> None:
    """Swallow a result, so that a lambda is a procedure."""
