"""Checkpoints to try the room on: layouts as published lists of names, the deterministic filler, sound small networks."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import fill
from torch import Tensor

from insloc_hub.checkpoints.layouts import OURS
from insloc_hub.checkpoints.names import Layout, all_shapes, part_of
from insloc_hub.checkpoints.read import Checkpoint

ASSETS = Path(__file__).resolve().parents[2] / "assets"
Rows = list[dict[str, str]]
Tensors = dict[str, Tensor]


def read_rows(text: str) -> Rows:
    """A TSV with a header, or the two raw InsLoc lists, whose header is a comment."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    header = (
        lines.pop(0).split("\t") if lines[0].startswith(("name\t", "timm\t", "torchvision")) else ["name", "shape", "dtype"]
    )
    return [dict(zip(header, line.split("\t"), strict=False)) for line in lines]


def shape_of(text: str) -> tuple[int, ...]:
    return () if text == "scalar" else tuple(map(int, text.split("x")))


@pytest.fixture(scope="session")
def layout_rows() -> Callable[[str], Rows]:
    """The rows of one of the lists in tests/assets/layouts.tar.gz."""
    with tarfile.open(ASSETS / "layouts.tar.gz") as archive:
        texts = {m.name: archive.extractfile(m).read().decode() for m in archive.getmembers()}  # type: ignore[union-attr]
    return lambda name: read_rows(texts[f"{name}.tsv"])


@pytest.fixture(scope="session")
def empty(layout_rows: Callable[[str], Rows]) -> Callable[[str], Tensors]:
    """A state dict with the names and shapes of a list, and no values: names and shapes are all that recognition sees."""

    def make(name: str) -> Tensors:
        return {
            r["name"]: torch.empty(shape_of(r["shape"]), device="meta")
            for r in layout_rows(name)
            if not r["name"].startswith("(")
        }

    return make


@pytest.fixture(scope="session")
def filler() -> Callable[[str, tuple[int, ...]], np.ndarray]:
    return fill


@pytest.fixture(scope="session")
def released(layout_rows: Callable[[str], Rows]) -> Tensors:
    """An InsLoc-FPN training checkpoint: every name and shape of the list, the query side filled, the twin one constant."""
    tensors: Tensors = {}
    for row in layout_rows("insloc_fpn_state_dict"):
        name, shape = row["name"], shape_of(row["shape"])
        if name.startswith("queue") or "_k." in name:
            dtype = torch.int64 if row["dtype"] == "int64" else torch.float32
            tensors[name] = torch.full((), 3, dtype=dtype).expand(shape)  # costs no memory
        else:
            tensors[name] = torch.from_numpy(fill(name, shape))
    return tensors


def sound_tensors(arch: str, seed: int, parts: tuple[str, ...] = ("trunk",)) -> Tensors:
    """Values that a trained network could have, under our names."""
    random = torch.Generator().manual_seed(seed)
    found: Tensors = {}
    for name, shape in all_shapes(arch).items():
        if part_of(name) not in parts:
            continue
        values = torch.rand(shape, generator=random)
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(100 + seed)
        elif name.endswith("running_var"):
            found[name] = values + 0.5
        elif len(shape) == 1:
            found[name] = values * 0.5 + (0.5 if name.endswith("weight") else -0.25)
        else:
            found[name] = (values - 0.5) * (12 / values[0].numel()) ** 0.5
    return found


def spelled(tensors: Tensors, layout: Layout, wrapper: str = "", twin: Tensors | None = None) -> Tensors:
    """Tensors of ours in another layout; those of `twin` as its key encoder."""
    pairs = [(layout.spell(name), tensor) for name, tensor in tensors.items()]
    pairs += [(layout.spell(name, "key"), tensor) for name, tensor in (twin or {}).items()]
    return {wrapper + name: tensor for name, tensor in pairs if name is not None}


@pytest.fixture(scope="session")
def sound() -> Callable[..., Tensors]:
    return sound_tensors


@pytest.fixture(scope="session")
def small() -> Tensors:
    """A sound resnet18 under timm's names; don't change it."""
    return sound_tensors("resnet18", 1)


@pytest.fixture(scope="session")
def spell() -> Callable[..., Tensors]:
    return spelled


@pytest.fixture(scope="session")
def as_file() -> Callable[..., Checkpoint]:
    """A checkpoint as if read from a torch file."""
    return lambda tensors, **facts: Checkpoint(**{"path": "given", "form": "torch", "tensors": tensors, **facts})


@pytest.fixture(scope="session")
def ours() -> Layout:
    return OURS


@pytest.fixture(scope="session")
def torch_bytes() -> Callable[[object], bytes]:
    def save(content: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    return save
