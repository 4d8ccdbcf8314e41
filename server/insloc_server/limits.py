"""What a request may be, held before anything is kept: its types, its bytes, its parts, its network inputs."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from insloc_server.problems import Refusal
from insloc_server.settings import MIB, Settings

RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
FORM_TYPE = "multipart/form-data"
JSON_TYPE = "application/json"
MAX_REQUEST_PART = MIB  # 1,024 boxes with all their digits are a tenth of it
MAX_PART_HEADER = 4096
BLOCK = 256 * 1024
SLICE = 64 * 1024  # bytes that are parsed before others get a turn
GRACE_S = 5.0  # before a body's rate is looked at
ODD_STRIDE = 32  # whole:N rounds sides up to it


class Budget:
    """Bytes of requests in work together; counted as they come in, so that slow senders take little of it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def charge(self, count: int) -> None:
        """Count `count` bytes more. Refusal: overloaded."""
        if self.held + count > self.most:
            raise Refusal("overloaded", "the requests in work fill the memory meant for them; try again", retry_after=1)
        self.held += count

    def release(self, count: int) -> None:
        """Count `count` bytes less."""
        self.held -= count


@dataclass(slots=True)
class Body:
    """A request's bytes and what they cost the budget; `release` when they are done with."""

    budget: Budget
    data: bytes = b""
    """All of it, once it is `whole`."""
    size: int = 0
    # One growing buffer would move and be there twice; as many objects as chunks would be larger than what is in them.
    blocks: list[bytearray] = field(default_factory=list)

    def add(self, chunk: bytes) -> None:
        """Keep `chunk`. Refusal: overloaded."""
        self.budget.charge(len(chunk))
        self.size += len(chunk)
        if not self.blocks or len(self.blocks[-1]) >= BLOCK:
            self.blocks.append(bytearray())
        self.blocks[-1] += chunk

    def whole(self) -> None:
        """Nothing more comes."""
        self.data = b"".join(self.blocks)
        self.blocks.clear()

    def release(self) -> None:
        """Let the bytes go; a second time does nothing."""
        self.budget.release(self.size)
        self.size = 0
        self.data = b""
        self.blocks.clear()


@dataclass(slots=True)
class Form:
    """The parts of a multipart request."""

    images: list[bytes] = field(default_factory=list)
    request: bytes | None = None


def body_type(headers: Mapping[str, str], types: Sequence[str] = (FORM_TYPE, JSON_TYPE, *RAW_TYPES)) -> str:
    """The request's media type, if it is one of `types`. Refusal: unsupported_media_type, empty_body."""
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        raise empty_body()
    name = headers.get("content-type", "").split(";")[0].strip().lower()
    if name == "image/jpg":
        name = "image/jpeg"
    if name not in types:
        raise Refusal("unsupported_media_type", f"this path reads bodies of type {', '.join(types)}")
    return name


def time_to_answer(headers: Mapping[str, str], settings: Settings) -> float:
    """Seconds that a request may take, by X-Deadline-Ms where it is there. Refusal: bad_request."""
    given = headers.get("x-deadline-ms")
    if given is None:
        return settings.deadline_s
    if not (given.isascii() and given.isdecimal() and int(given[:12]) > 0 and len(given) <= 12):
        raise Refusal("bad_request", "the header X-Deadline-Ms needs a whole number of milliseconds above 0")
    return min(int(given) / 1000, settings.max_deadline_s)


async def read_body(request: Request, body: Body, settings: Settings) -> None:
    """Fill `body`. Refusal: body_too_large (at once if the header says so), empty_body, receive_timeout, overloaded."""
    most = settings.max_body_bytes
    too_large = Refusal("body_too_large", f"a request has at most {most:,} bytes; send fewer or smaller images", limit=most)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large
    start = asyncio.get_running_loop().time()
    last = start + settings.body_timeout_s
    try:
        async with asyncio.timeout_at(min(last, start + GRACE_S)) as clock:
            async for chunk in request.stream():
                if body.size + len(chunk) > most:
                    raise too_large
                body.add(chunk)
                clock.reschedule(min(last, start + GRACE_S + body.size / settings.min_body_rate))
    except TimeoutError:
        rate = f"{settings.min_body_rate:,} bytes a second"
        detail = f"the body did not arrive within {settings.body_timeout_s:g} s, or with less than {rate}"
        raise Refusal("receive_timeout", detail) from None
    if not body.size:
        raise empty_body()
    body.whole()


def empty_body() -> Refusal:
    """The refusal of a request without a body."""
    return Refusal("empty_body", "the request needs a body: an image, a form with a part `image`, or JSON")


async def split_form(body: bytes, content_type: str, max_images: int) -> Form:
    """Parts of a multipart body, kept in memory, in their order. Refusal: bad_form.

    Names are closed: `image` (repeats) and `request` (at most once).
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Refusal("bad_form", "the Content-Type names no boundary")
    collector = _Collector(max_images)
    try:
        parser = MultipartParser(boundary, collector.callbacks())  # type: ignore[arg-type]
        view = memoryview(body)
        for start in range(0, len(view), SLICE):
            parser.write(bytes(view[start : start + SLICE]))
            await asyncio.sleep(0)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise Refusal("bad_form", f"no well-formed multipart body: {error}") from None
    if not collector.ended:
        raise Refusal("bad_form", "the multipart body ends before its last boundary")
    if not collector.form.images:
        raise Refusal("bad_form", "the form has no part `image`")
    return collector.form


class _Collector:
    """The parser's callbacks, and what they have gathered."""

    def __init__(self, max_images: int) -> None:
        self.max_images = max_images
        self.form = Form()
        self.ended = False
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name = ""
        self._data = bytearray()

    def callbacks(self) -> dict[str, object]:
        """By the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition, self._data = b"", bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._header, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._value, data[start:end])

    def _grow(self, target: bytearray, data: bytes) -> None:
        target += data
        if len(target) > MAX_PART_HEADER:
            raise Refusal("bad_form", "a part's header is too long")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name not in ("image", "request"):
            raise Refusal("bad_form", f"unknown part {self._name[:40]!r}; there are `image`, which may repeat, and `request`")
        if self._name == "request" and self.form.request is not None:
            raise Refusal("bad_form", "the part `request` is there twice")
        if self._name == "image" and len(self.form.images) == self.max_images:
            raise Refusal("bad_form", f"more than {self.max_images} images in one request", limit=self.max_images)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        if self._name == "request" and len(self._data) > MAX_REQUEST_PART:
            raise Refusal("body_too_large", f"the part `request` has over {MAX_REQUEST_PART:,} bytes", limit=MAX_REQUEST_PART)

    def _part_end(self) -> None:
        if self._name == "image":
            self.form.images.append(bytes(self._data))
        else:
            self.form.request = bytes(self._data)

    def _end(self) -> None:
        self.ended = True


def check_input(transform: str, size_wh: tuple[int, int], settings: Settings) -> None:
    """Refusal: bad_request where `whole:N` would make a network input beyond the limit; before it is made."""
    if not transform.startswith("whole:"):
        return
    w, h = size_wh
    scale = int(transform.split(":")[1]) / min(w, h)
    pixels = (w * scale + ODD_STRIDE) * (h * scale + ODD_STRIDE)
    if pixels > settings.max_input_pixels:
        limit = settings.max_input_pixels
        raise Refusal("bad_request", f"{transform} makes over {limit:,} pixels of this {w} x {h} image", limit=limit)
