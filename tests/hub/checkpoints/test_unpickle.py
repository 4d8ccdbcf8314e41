"""A pickle is read without running it: plain arrays of every protocol, and nothing else."""

import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from insloc_hub.checkpoints.unpickle import ALLOWED, HostilePickle, read_pickle
from insloc_hub.errors import BadCheckpoint

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.float16([1, 2]),
    "counter": np.array(7, np.int64),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "text": "é",
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_arrays_of_every_protocol_and_either_numpy_come_back_equal(protocol: int, module: bytes) -> None:
    data = pickle.dumps({"model": OrderedDict(ARRAYS), "__author__": "x"}, protocol=protocol)
    if protocol < 4:  # later ones write the length of each name before it
        data = data.replace(b"numpy._core", module)
    found = read_pickle("f", data)
    assert list(found["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(found["model"][name], array) and type(found["model"][name]) is type(array)


class Marks:
    """Leaves a file behind when its pickle is run."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.place,))


class Call:
    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, ...]:
        return (self.function, self.args)


def test_nothing_of_a_hostile_pickle_runs(tmp_path: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps({"model": ARRAYS, "evil": Marks(tmp_path / "ran")}, protocol=protocol)
        with pytest.raises(HostilePickle, match=r"f: this pickle calls .* Nothing of it was run"):
            read_pickle("f", data)
        assert not (tmp_path / "ran").exists()
        pickle.loads(data)  # the pickle does what it threatens
        (tmp_path / "ran").unlink()


@pytest.mark.parametrize("function", [eval, exec, __import__, getattr, print, open, np.load, np.frombuffer, pickle.loads])
def test_a_function_that_is_not_in_the_table_is_refused_by_name(function: object) -> None:
    with pytest.raises(HostilePickle) as caught:
        read_pickle("f", pickle.dumps(Call(function, "1")))
    assert caught.value.wanted.endswith(f".{function.__name__}")  # type: ignore[attr-defined]


def test_a_tensor_inside_a_plain_pickle_is_refused_since_reading_it_runs_code() -> None:
    import torch

    with pytest.raises(HostilePickle, match=r"torch"):
        read_pickle("f", pickle.dumps({"w": torch.zeros(2)}))


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.array([(1, {})], dtype=[("a", int), ("b", object)])])
def test_arrays_of_objects_are_refused(array: np.ndarray) -> None:
    with pytest.raises(BadCheckpoint):
        read_pickle("f", pickle.dumps({"w": array}))


def test_an_array_can_not_be_made_larger_than_its_bytes() -> None:
    reconstruct = ALLOWED["numpy.core.multiarray._reconstruct"]
    with pytest.raises(ValueError, match="unusual"):
        reconstruct(ALLOWED["numpy.ndarray"], (10**12,), b"b")
    data = pickle.dumps(np.zeros(3, np.float32), protocol=2).replace(b"K\x03\x85", b"K\x09\x85")
    assert any(op.name == "BININT1" and arg == 9 for op, arg, _ in pickletools.genops(data))
    with pytest.raises(BadCheckpoint, match="damaged pickle"):
        read_pickle("f", data)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_pickle_cut_short_is_damaged(keep: float) -> None:
    data = pickle.dumps(ARRAYS)
    with pytest.raises(BadCheckpoint, match=r"damaged pickle .*Fetch it again"):
        read_pickle("f", data[: int(len(data) * keep)])


def test_the_content_of_a_torch_zip_is_a_part_of_a_file() -> None:
    with pytest.raises(BadCheckpoint, match="a part of a torch file"):
        read_pickle("f", b"\x80\x02U\x01xQ.")


def test_a_pickle_of_gigabytes_is_not_even_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("insloc_hub.checkpoints.unpickle.MOST_BYTES", 10)
    with pytest.raises(BadCheckpoint, match="GiB of pickle"):
        read_pickle("f", pickle.dumps(ARRAYS))
