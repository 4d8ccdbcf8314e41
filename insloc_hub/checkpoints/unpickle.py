"""Reads a plain pickle of numpy arrays without executing it: detectron2's `.pkl` files (compat.md 6.2).

A pickle is a program that names the functions it calls. Here a name outside the table below is an error, and the names
inside it are answered by functions of this file, which make arrays and nothing else.
"""

import collections
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insloc_hub.errors import BadCheckpoint

MOST_BYTES = 8 * 2**30  # the largest model files of the field are a tenth of this


class HostilePickle(BadCheckpoint):
    """A pickle that asks for code; carries `wanted`, the name of what it asked for."""

    def __init__(self, path: object, wanted: str) -> None:
        self.wanted = wanted
        super().__init__(
            path,
            f"this pickle calls {wanted}, which no weights file needs. Nothing of it was run. "
            "If you trust its maker, ask for a safetensors file, or for a pickle of plain numpy arrays",
        )


class _Marker:
    """Stands for numpy.ndarray where a pickle only names it."""


def read_pickle(path: object, data: bytes) -> Any:
    """The content of a plain pickle, arrays as numpy's. HostilePickle: it names code. BadCheckpoint: damaged, too large.

    `path` only goes into messages.
    """
    if len(data) > MOST_BYTES:
        raise BadCheckpoint(path, f"{len(data) / 2**30:.0f} GiB of pickle; a ResNet needs far less, so it is not read")
    try:
        return _Unpickler(path, data).load()
    except BadCheckpoint:
        raise
    # A damaged pickle can raise nearly anything from the unpickler's own operations; none of it is a call of foreign code.
    except Exception as error:
        raise BadCheckpoint(path, f"a damaged pickle ({type(error).__name__}: {error}). Fetch it again") from None


class _Unpickler(pickle.Unpickler):
    """Knows the names of `ALLOWED`, no others; latin1 since Python 2 wrote some of these files."""

    def __init__(self, path: object, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise HostilePickle(self.path, f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise BadCheckpoint(self.path, "a pickle whose tensors lie outside of it: a part of a torch file. Give the whole file")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    # numpy itself always writes an empty shape here; the real one comes with the data and is checked against it.
    if kind is not _Marker or tuple(shape) != (0,):
        raise ValueError("an array is rebuilt in an unusual way")
    return np.ndarray((0,), np.uint8)


def _frombuffer(data: bytes | bytearray, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> NDArray[Any]:
    if order not in ("C", "F"):
        raise ValueError(f"array order {order!r}")
    flat = np.frombuffer(data, dtype=_plain(dtype))
    return flat.reshape(shape, order="C" if order == "C" else "F")


def _dtype(text: str, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    return _plain(np.dtype(text))


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    return np.frombuffer(data, dtype=_plain(dtype))[0]


def _no_bytes() -> bytes:
    # Protocols 0-2 write b"" as a call without arguments; with any it would be a way to fill memory.
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.hasobject or dtype.kind not in "biufSU":
        raise ValueError(f"arrays of {dtype} are no weights")
    return dtype


ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _Marker,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "collections.OrderedDict": collections.OrderedDict,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
}
"""Protocols 0-2 write bytes through _codecs.encode, 5 arrays through _frombuffer; numpy 1 says `core`, numpy 2 `_core`."""
