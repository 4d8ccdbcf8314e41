"""One small model, one app, pictures; slow and failing models are real ones with a hook on a layer."""

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from mirrors import DATA, SECRET
from PIL import Image

from insloc_hub import load
from insloc_hub.demo.world import draw
from insloc_hub.models.repos import Repos
from insloc_server.app import create_app
from insloc_server.mirror import create_mirror
from insloc_server.settings import Settings

SPEC = "random:resnet18@1"


@pytest.fixture(scope="session")
def extractor():
    return load(SPEC, "cpu")


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    # Eager: hooks on layers, by which tests slow and break models, are not in a graph. One lane: what is held there holds all.
    usual = {"model": SPEC, "port": 0, "device": "cpu", "engine": "eager", "lanes": 1}
    return lambda **changes: Settings(**{**usual, **changes})


@pytest.fixture(scope="session")
def client(extractor, make_settings) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(), extractor)) as client:
        yield client


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """120 x 90 pixels, nothing symmetric about it."""
    return Image.fromarray(draw(seed=1, index=3, size=(90, 120)).pixels)


@pytest.fixture(scope="session")
def packed() -> Callable[..., bytes]:
    """A PIL image -> the bytes of a file."""

    def pack(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return pack


@pytest.fixture(scope="session")
def png(picture, packed) -> bytes:
    return packed(picture)


@pytest.fixture(scope="session")
def post() -> Callable[..., Any]:
    """post(client, images, accept=..., **request): a multipart request; one(client, image, ...) is its raw twin."""

    def post(client: Any, images: list[bytes], accept: str = "application/json", **request: Any) -> Any:
        parts = [("image", (f"{i}.png", data, "image/png")) for i, data in enumerate(images)]
        parts += [("request", (None, json.dumps(request), "application/json"))] if request else []
        return client.post("/v1/features", files=parts, headers={"accept": accept})

    return post


@pytest.fixture(scope="session")
def post_raw() -> Callable[..., Any]:
    def post_raw(client: Any, image: bytes, accept: str = "application/json", kind: str = "image/png", **query: Any) -> Any:
        params = {name: json.dumps(value) if name == "boxes" else value for name, value in query.items()}
        return client.post("/v1/features", content=image, params=params, headers={"accept": accept, "content-type": kind})

    return post_raw


class Gate:
    """Holds the forward at a layer of a model until opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.forwards = 0

    def hold(self, *_: object) -> None:
        self.forwards += 1
        self.reached.set()
        assert self.open.wait(30)

    def shut(self) -> None:
        self.reached.clear()
        self.open.clear()


@pytest.fixture
def gated() -> Iterator[tuple[Any, Gate]]:
    """An extractor whose forward waits at a gate, and the gate."""
    extractor, gate = load(SPEC, "cpu"), Gate()
    extractor.model.conv1.register_forward_pre_hook(gate.hold)
    yield extractor, gate
    gate.open.set()


@pytest.fixture
def broken() -> Iterator[Any]:
    """An extractor whose model fails on a batch with a wholly black image, and gives NaN on a wholly white one."""
    extractor = load(SPEC, "cpu")
    black = float(((0 - np.array(extractor.facts.mean)) / extractor.facts.std).max())
    white = float(((1 - np.array(extractor.facts.mean)) / extractor.facts.std).min())

    def fail(module: Any, inputs: Any) -> Any:
        (batch,) = inputs
        if any(float(one.max()) <= black + 1e-4 for one in batch) and float(batch.abs().sum()) > 0:
            raise RuntimeError("a kernel failed at /secret/path")
        return (batch.where(batch.flatten(1).amin(1)[:, None, None, None] < white - 1e-4, float("nan")),)

    extractor.model.conv1.register_forward_pre_hook(fail)
    return extractor


@pytest.fixture(scope="session")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One repository among all that must not be shown: links, hidden files, files beside, odd names."""
    top = tmp_path_factory.mktemp("mirror")
    (top / "secret.txt").write_bytes(SECRET)
    root = top / "models"
    repo = root / "lab/tiny"
    (repo / "parts/.hidden").mkdir(parents=True)
    (repo / "config.json").write_text('{"a": 1}')
    (repo / "model.safetensors").write_bytes(DATA)
    (repo / "parts/fpn.bin").write_bytes(DATA[:999])
    (repo / "empty").write_bytes(b"")
    for name in (".env", ".git", "parts/.hidden/a", "a\\b", "new\nline"):
        (repo / name).write_bytes(SECRET)
    (root / "beside.txt").write_bytes(SECRET)
    (root / "lab/beside.txt").write_bytes(SECRET)
    (root / ".hidden/repo").mkdir(parents=True)
    (root / ".hidden/repo/config.json").write_bytes(SECRET)
    (repo / "link.txt").symlink_to(top / "secret.txt")
    (repo / "link").symlink_to(top)
    (root / "lab/linked").symlink_to(top)
    (root / "outside").symlink_to(top)
    os.mkfifo(repo / "fifo")
    return root


@pytest.fixture(scope="session")
def mirror_app(mirrored: Path) -> Any:
    return create_mirror(Repos(mirrored))
