"""Ask a server from Python: images and boxes -> numpy arrays. Needs the extra `client`, and imports no torch.

`Question` is one call without its waiting: what is sent next, what an answer means, how much time is left. `Client` and
`AsyncClient` add a way to wait. There is a further try only where the server says when (Retry-After), and in time.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from insloc_hub.errors import BadData, InslocError
from insloc_hub.shapes import Bool, Float

try:
    import httpx
except ImportError:
    raise ModuleNotFoundError("insloc_server.client needs httpx: pip install 'insloc_hub[client]'") from None

SAFETENSORS = "application/vnd.safetensors"
MOST_QUERY = 4096  # bytes, of the 16 KiB that a server takes as the head; longer lists of boxes go into a form
SERVERS_SHARE = 0.9  # of the time that is left: its answer, or that it has none, must still arrive
LEAST_PAUSE_S = 0.1  # also for who is told "Retry-After: 0"
MOST_JITTER = 0.5  # of the pause: all who were turned away together were told the same
DAY_S = 86_400

Image = bytes | str | os.PathLike[str]
"""The bytes of a file, or its path."""


class Options(TypedDict, total=False):
    """What can be asked beside images and boxes, as in docs/serve.md; what is left out, or None, the server chooses."""

    outputs: str | Sequence[str] | None
    transform: str | None
    stride: int | None
    model: str | None
    deterministic: bool
    on_error: Literal["fail", "partial"]
    expect_space: str | Sequence[str] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Features:
    """One upright image of a reply, sizes in pixels. None: not asked for, or not come to before the image failed."""

    width: int | None
    height: int | None
    pooled: Float[np.ndarray, " d"] | None
    map: Float[np.ndarray, "c h w"] | None
    regions: Float[np.ndarray, "n c"] | None
    boxes: Float[np.ndarray, "n 4"] | None
    """x1, y1, x2, y2 as they were pooled, inside the image."""
    clipped: Bool[np.ndarray, " n"] | None
    """Which reached out of it."""
    error: dict[str, str] | None
    """`code` and `detail`, with on_error="partial"."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reply:
    """What a server answered."""

    images: tuple[Features, ...]
    model: dict[str, str]
    """id, spec, arch, sha256 of the weights, engine, precision."""
    spaces: dict[str, str]
    """Output -> id of its embedding space: compare vectors of equal ids only."""
    transform: str
    stride: int | None
    """In pixels of the network input; None: nothing came from a map."""


class NoAnswer(InslocError):
    """Nothing came back from `url`, or not in time, or what no server of ours sends."""

    def __init__(self, url: str, problem: str) -> None:
        self.url = url
        super().__init__(f"no answer from {url}{problem}")


class RefusedByServer(InslocError):
    """An answer without features: `status`, `code` ("" if something on the way to the server answered), `detail`, `index`.

    `index` is that of the image, for bad_box of the box with its `image`; `request_id` is the name in the server's log,
    `retry_after_s` what it asked to wait.
    """

    def __init__(self, url: str, response: httpx.Response, wait_s: float | None) -> None:
        ours = response.headers.get("content-type", "").startswith("application/problem+json")
        problem = response.json() if ours else {"detail": response.text[:200] or response.reason_phrase}
        self.status, self.code = response.status_code, str(problem.get("code", ""))
        self.detail = str(problem.get("detail", ""))
        self.index, self.image, self.request_id = (problem.get(name) for name in ("index", "image", "instance"))
        self.retry_after_s = wait_s
        late = "" if wait_s is None else f" (a larger timeout_s has room for the {wait_s:g} s that it asks to wait)"
        super().__init__(f"{url} says {self.status} {self.code or 'without a code'}: {self.detail}{late}")


def scaled_boxes(boxes: object, from_wh: tuple[float, float], to_wh: tuple[float, float]) -> Float[np.ndarray, "n 4"]:
    """Boxes in pixels of a resized copy of an image -> in pixels of the image. InslocError: no boxes, no sizes.

    >>> scaled_boxes([[8, 0, 16, 12]], from_wh=(32, 24), to_wh=(640, 240)).tolist()
    [[160.0, 0.0, 320.0, 120.0]]
    """
    rows = np.asarray(boxes, dtype=np.float64)
    if (rows.size and rows.shape[1:] != (4,)) or not all(side > 0 for side in (*from_wh, *to_wh)):
        got = f"got boxes {list(rows.shape)}, {from_wh} and {to_wh}"
        raise InslocError(f"boxes are rows of x1, y1, x2, y2, sizes a width and a height above 0; {got}")
    scaled: np.ndarray = rows.reshape(-1, 4) * np.tile(np.divide(to_wh, from_wh), 2)
    return scaled


def connection(url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    """httpx's arguments for a client. NoAnswer: no address. InslocError: no key, no time."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise NoAnswer(url, f": {error}; an address is http://127.0.0.1:8411") from None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InslocError("the key has a line break or other signs that are in no key; strip() what was read from a file")
    if not 0 < timeout_s <= DAY_S:
        raise InslocError(f"timeout_s is {timeout_s}; it needs seconds, above 0 and at most {DAY_S:,}")
    return {"base_url": address, "headers": {"accept": SAFETENSORS} | ({"authorization": f"Bearer {key}"} if key else {})}


def sendable(images: Image | Sequence[Image], boxes: object, options: Options) -> dict[str, Any]:
    """httpx's arguments: a lone image as it is, with options in the query if they fit; else a form. InslocError, BadData."""
    given = [images] if isinstance(images, bytes | str | os.PathLike) else images
    alone = given is not images
    try:
        data = [one if isinstance(one, bytes) else Path(one).read_bytes() for one in given]
    except OSError as error:
        raise BadData(error.filename, f"this image can't be read: {error.strerror}") from None
    except TypeError as error:
        raise InslocError(f"an image is the bytes of a file, or its path: {error}") from None
    if not data:
        raise InslocError("there are no images to ask about")
    ask: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    ask |= {name: [ask[name]] for name in ("outputs", "expect_space") if isinstance(ask.get(name), str)}
    if alone:
        query = httpx.QueryParams(ask if boxes is None else ask | {"boxes": as_json(boxes)})
        if len(str(query)) <= MOST_QUERY:  # of the type, the server only takes that it is an image
            return {"content": data[0], "params": query, "headers": {"content-type": "image/jpeg"}}
    if boxes is not None:
        ask["boxes"] = [boxes] if alone else boxes
    parts = [("image", ("image", one, "image/jpeg")) for one in data]
    return {"files": [*parts, ("request", (None, as_json(ask), "application/json"))], "headers": {}}


def as_json(value: object) -> str:
    """JSON of lists, and of the arrays of any library. InslocError: of anything else."""
    try:
        return json.dumps(value, default=lambda array: array.tolist(), separators=(",", ":"))
    except (AttributeError, TypeError, ValueError) as error:
        raise InslocError(f"this can't be sent as JSON (boxes are numbers, in lists or arrays): {error}") from None


def read_reply(body: bytes) -> Reply:
    """The tensors of a safetensors file and the JSON in its head (docs/serve.md). Errors of any kind: it is no such file."""
    tensors = load(body)
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    head = json.loads(header["__metadata__"]["insloc"])
    images = []
    for index, facts in enumerate(head["images"]):
        fields = {name: facts.get(name) for name in ("width", "height", "error")}
        fields |= {name: tensors.get(f"{name}.{index}") for name in ("pooled", "map", "regions")}
        there = "boxes" in facts
        boxes = np.array(facts["boxes"], np.float32).reshape(-1, 4) if there else None
        images.append(Features(**fields, boxes=boxes, clipped=np.array(facts["clipped"], bool) if there else None))
    return Reply(images=tuple(images), **{name: head[name] for name in ("model", "spaces", "transform", "stride")})


class Question:
    """One call, whose time begins at once. InslocError, BadData: it can't be asked."""

    def __init__(self, url: str, timeout_s: float, *asked: Any) -> None:
        self.url, self.timeout_s = url, timeout_s
        self.until = time.monotonic() + timeout_s
        self.sent = sendable(*asked)
        self.reply: Reply | None = None

    def next_try(self) -> dict[str, Any]:
        """The arguments of httpx's `post`."""
        left_s = max(0.001, self.until - time.monotonic())
        deadline = {"x-deadline-ms": str(max(1, int(left_s * SERVERS_SHARE * 1000)))}
        return {**self.sent, "headers": self.sent["headers"] | deadline, "timeout": left_s}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Around a try. NoAnswer: what httpx says, with the way out."""
        try:
            yield
        except httpx.TimeoutException:
            out = "a larger timeout_s gives it more time, fewer images at once less to do"
            raise NoAnswer(self.url, f" within {self.timeout_s:g} s; {out}") from None
        except httpx.RequestError as error:
            raise NoAnswer(self.url, f": {error}; is insloc-server running at this address and port?") from None

    def hear(self, response: httpx.Response) -> None:
        """Set `reply`, or `pause_s` before the next try. RefusedByServer, NoAnswer."""
        if response.status_code == 200:
            try:
                self.reply, self.pause_s = read_reply(response.content), 0.0
                return
            except (SafetensorError, LookupError, ValueError, TypeError):
                kind = response.headers.get("content-type", "something")
                raise NoAnswer(self.url, f" but {kind} that insloc-server doesn't send; is this its address?") from None
        after, wait_s = response.headers.get("retry-after", ""), None
        if response.status_code in (429, 503) and after.isascii() and after.isdecimal():  # ours never sends a date
            wait_s = float(after)
            self.pause_s = max(LEAST_PAUSE_S, wait_s) * random.uniform(1, 1 + MOST_JITTER)
            if time.monotonic() + self.pause_s < self.until:
                return
        raise RefusedByServer(self.url, response, wait_s)


class Client(AbstractContextManager["Client"]):
    """`with Client("http://127.0.0.1:8411") as server: server.features(...)`, as often as you like, from any threads.

    `timeout_s` is for a call with all its tries: the server is told what is left, and the network may be silent that long.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 10) -> None:
        self._http = httpx.Client(**connection(url, key, timeout_s))
        self._place = url, timeout_s

    def features(self, images: Image | Sequence[Image], boxes: object = None, **options: Unpack[Options]) -> Reply:
        """Features of an image with its boxes, or of a list of images with a list of boxes for each; see Options.

        Boxes are rows of x1, y1, x2, y2 in pixels of the upright image. InslocError: RefusedByServer, NoAnswer, BadData.
        """
        question = Question(*self._place, images, boxes, options)
        while question.reply is None:
            with question.listening():
                question.hear(self._http.post("/v1/features", **question.next_try()))
            time.sleep(question.pause_s)
        return question.reply

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """The same to await, within asyncio."""

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 10) -> None:
        self._http = httpx.AsyncClient(**connection(url, key, timeout_s))
        self._place = url, timeout_s

    async def features(self, images: Image | Sequence[Image], boxes: object = None, **options: Unpack[Options]) -> Reply:
        """As Client.features."""
        question = await asyncio.to_thread(Question, *self._place, images, boxes, options)  # it reads files
        while question.reply is None:
            with question.listening():
                question.hear(await self._http.post("/v1/features", **question.next_try()))
            await asyncio.sleep(question.pause_s)
        return question.reply

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
