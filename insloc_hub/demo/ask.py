"""Start the server, ask it for pooled and per-box features over HTTP, stop it, compare with the library."""

import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from insloc_hub.demo import world
from insloc_hub.models.extractor import load
from insloc_server.serve import running
from insloc_server.settings import make_settings

TIMEOUT_S = 60
SHOWN = 4  # numbers of a vector that the report shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One request and what came of it."""

    request: str
    """As a command that anyone can type."""
    answer: str
    """JSON, long lists cut short."""
    error: float
    """Largest difference between the served vectors and the library's own."""


def ask_server(model: Path, folder: Path, facts: world.WorldFacts) -> Served:
    """Ask for the first validation image that holds two objects or more, with the boxes of all of them."""
    key, picture = next((k, p) for k, p in world.pictures(facts, "val") if len(p.boxes) > 1)
    boxes = picture.boxes.astype(int).tolist()  # drawn boxes end at whole pixels
    path = folder / "val" / key
    query = urllib.parse.urlencode({"outputs": "pooled,regions", "boxes": json.dumps(boxes, separators=(",", ":"))}, safe=",")
    with running(make_settings(model=str(model), port=0, device="cpu")) as url:
        post = urllib.request.Request(
            f"{url}/v1/features?{query}", data=path.read_bytes(), headers={"Content-Type": "image/jpeg"}
        )
        with urllib.request.urlopen(post, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read())
    own = load(str(model), device="cpu")([path], boxes=[boxes], outputs=("pooled", "regions"))
    served = answer["images"][0]
    assert own.pooled is not None and own.regions is not None  # asked for above
    error = max(
        float((torch.tensor(served["pooled"]) - own.pooled[0]).abs().max()),
        float((torch.tensor(served["regions"]) - own.regions[0]).abs().max()),
    )
    command = (
        f"insloc-server --model {model}\n"
        f"curl --data-binary @{path} -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8411/v1/features?{query}'"
    )
    return Served(request=command, answer=json.dumps(shorten(answer), indent=1), error=error)


def shorten(value: Any) -> Any:
    """The same JSON value with long lists of numbers cut short.

    >>> shorten({"a": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    {'a': '[1, 2, 3, 4, ... 6 numbers]'}
    """
    if isinstance(value, dict):
        return {key: shorten(inner) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) <= SHOWN or not all(isinstance(v, int | float) for v in value):
        return [shorten(inner) for inner in value]
    return f"[{', '.join(f'{v:.4g}' for v in value[:SHOWN])}, ... {len(value)} numbers]"
