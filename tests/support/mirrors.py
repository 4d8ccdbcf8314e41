"""Mirrors and their clients as they are in life: each a process of its own, since huggingface_hub reads HF_ENDPOINT once."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from insloc_hub.files import sha256_file, write_json

CLIENT = Path(__file__).with_name("mirror_client.py")
START = "import sys; from insloc_hub.cli import main; main()"
SECRET = b"not for anybody"  # beside what a mirror may show
DATA = bytes(range(256)) * 40  # of the weights file it shows
CARD = """---
library_name: timm
pipeline_tag: image-feature-extraction
license: apache-2.0
datasets:
- imagenet-1k
tags:
- insloc
model-index:
- name: tiny
  results:
  - task: {type: image-feature-extraction}
    dataset: {type: folder, name: world}
    metrics:
    - {type: accuracy, value: 0.5}
---
# tiny
"""


def publish(folder: Path, *, arch: str = "test_resnet", seed: int = 0) -> Path:
    """A published folder of a tiny network with random weights: config.json with our digest, weights, card, parts."""
    import timm
    import torch
    from safetensors.torch import save_file

    (folder / "parts").mkdir(parents=True)
    torch.manual_seed(seed)
    model = timm.create_model(arch, num_classes=0)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architecture": arch, "num_classes": 0, "num_features": model.num_features, "global_pool": "avg"}
    stock = {key: model.pretrained_cfg[key] for key in ("input_size", "mean", "std", "first_conv", "classifier")}
    config |= {"pretrained_cfg": {**stock, "num_classes": 0}}
    config |= {"insloc": {"schema": 1, "sha256": sha256_file(folder / "model.safetensors")}}
    write_json(folder / "config.json", config)
    (folder / "README.md").write_text(CARD)
    (folder / "parts" / "fpn head#1.json").write_text("{}")  # a name that has to be escaped in a URL
    return folder


class Got(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(app: Any, path: str | bytes, method: str = "GET", body: bytes = b"", query: bytes = b"", **headers: str) -> Got:
    """One request as a server hands it on: the path as it stood on the wire, and decoded."""
    raw = path.encode() if isinstance(path, str) else path
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in ({"host": "mirror:80"} | headers).items()]
    scope = {"type": "http", "method": method, "scheme": "http", "raw_path": raw, "query_string": query, "headers": fields}
    scope |= {"path": raw.decode("utf-8", "replace"), "root_path": "", "http_version": "1.1", "asgi": {"spec_version": "2.4"}}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Got(sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:]))


@contextmanager
def mirror(folder: Path, *options: str, **env: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`insloc mirror FOLDER` at a free port: its URL and its process, ended if it has not ended by then."""
    words = [sys.executable, "-c", START, "mirror", str(folder), "--port", "0", *options]
    everything = {**os.environ, **env}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=everything) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        try:
            assert line.startswith("serving "), line + process.stderr.read()
            yield line.split(" at ")[1].split()[0], process
        finally:
            process.terminate()


def client(what: str, url: str, home: Path, *, talk: Any = None, first_path: Path | None = None, **env: str) -> dict[str, Any]:
    """What a part of mirror_client.py found in a process of its own. `talk` is called when it says "now" on its way."""
    path = os.pathsep.join(str(p) for p in (first_path, os.environ.get("PYTHONPATH")) if p)
    clean = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_HOME")}
    everything = {**clean, "HF_ENDPOINT": url, "HF_HOME": str(home), "PYTHONPATH": path, **env}
    words = [sys.executable, str(CLIENT), what]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, text=True, env=everything, **pipes) as process:  # type: ignore[call-overload]
        line = process.stdout.readline()
        if line == "now\n":
            talk()
            line = ""
        out, err = process.communicate("\n", timeout=120)
    assert process.returncode == 0, line + out + err
    return json.loads((line + out).splitlines()[-1])
