"""One connection under limits of our own: bytes, fields and time of a request's head, and an end that loses no answer.

uvicorn has none of these with httptools, and its keep-alive clock starts again at every byte (Kludex/uvicorn #157): a head
could be trickled in for ever, an answer be left unread for ever, and a refused body cuts off the refusal with it.
"""

import asyncio
import socket
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from insloc_server.keys import OPEN_PATHS
from insloc_server.problems import Refusal, problem_response
from insloc_server.settings import Settings

LINGER_S = 2.0  # what a refused client still sends is read and dropped, so that it gets to the answer
LAST_CHANCE_S = 0.3  # a request may be on its way, or in the kernel, when the server ends
UNREAD_S = 10.0  # how often it is looked whether a client reads its answer
SURPLUS = 2  # times max_connections that are heard at all: those beyond the limit are answered, with a refusal


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, guarded. A head that is whole but too large is left to the app as `insloc_refusal` in the scope."""

    def __init__(self, settings: Settings, **given: Any) -> None:
        super().__init__(**given)
        self.settings = settings
        self.surplus = False
        self.last = False  # the server ends
        self.in_head = False
        self.deaf = False  # what still comes is dropped
        self.lingering = False  # the answer is sent, its end too
        self.raw_bytes = self.head_bytes = self.head_fields = 0
        self.clock: asyncio.TimerHandle | None = None
        self.reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time for the first head begins. Beyond the limit of connections, requests are refused."""
        super().connection_made(transport)
        # asyncio does it for sockets that know their protocol only, which accepted ones don't; else the body of an answer
        # waits for the client's word that it has the head, and that comes 40 ms late.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        most = self.settings.max_connections
        self.surplus = len(self.connections) > most
        if len(self.connections) > SURPLUS * most:
            transport.abort()
            return
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """No clock outlives the connection."""
        self._stop_clock()
        if self.reading is not None:
            self.reading.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client. Those of a head that does not end are counted here: the parser keeps them to itself."""
        if self.deaf:
            return
        idle = self._idle()
        only_head = self.in_head or idle
        if idle:
            self._start_clock()
        super().data_received(data)
        if self.in_head and only_head:
            self.raw_bytes += len(data)
            if self.raw_bytes > self.settings.max_header_bytes:
                self._cut(self._too_large())

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self.in_head = True
        self.raw_bytes = self.head_bytes = self.head_fields = 0
        self._start_clock()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request line."""
        self.head_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole field; what is beyond the limits is not kept."""
        self.head_bytes += len(name) + len(value) + 4  # a colon, a space, an end of line
        self.head_fields += 1
        if self._fits():
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: its time ends, and the app is called."""
        self.in_head = False
        self._stop_clock()
        if not self._fits():
            self.scope["insloc_refusal"] = self._too_large()  # type: ignore[typeddict-unknown-key]
        elif self.surplus and self.url.split(b"?")[0].decode("latin-1") not in OPEN_PATHS:
            detail = "too many connections are open; close those that you don't use"
            self.scope["insloc_refusal"] = Refusal("too_many_connections", detail, retry_after=1)  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        if self.last:
            self.cycle.keep_alive = False
        self.cycle.transport = _Ending(self)  # type: ignore[assignment]

    def on_response_complete(self) -> None:
        """The answer has left the app; the client must read it."""
        if not self.lingering:  # else no further one can be sent
            super().on_response_complete()
        self._watch_reading()

    def shutdown(self) -> None:
        """The server ends: one more answer at most; what has not been asked for in a moment is not coming."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        self.last = True
        if self._idle():
            self.loop.call_later(LAST_CHANCE_S, self._close_idle)

    def _close_idle(self) -> None:
        if self._idle() and not self.lingering:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What can't be parsed gets a problem body, too."""
        self._cut(Refusal("http_error", f"this is no HTTP/1.1 request: {msg}"))

    def end(self) -> None:
        """Close once the answer is sent; a body that is still coming is dropped for a while, for else it would cut it off."""
        if self.cycle is None or not self.cycle.more_body or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._linger()

    def _linger(self) -> None:
        self.deaf = self.lingering = True
        self._stop_clock()
        self.transport.write_eof()
        self.flow.resume_reading()
        self.clock = self.loop.call_later(LINGER_S, self.transport.close)

    def _cut(self, error: Refusal) -> None:
        """Answer without the app, and close. An earlier request of the connection that is in work gets its answer first."""
        if self.transport.is_closing() or self.deaf:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()
            self.deaf = True
            self.cycle.keep_alive = False
            return
        self.config.app.state.metrics.cut_off(error.code)  # type: ignore[union-attr]
        self.transport.write(_raw(error))
        self._linger()

    def _idle(self) -> bool:
        return not self.in_head and (self.cycle is None or self.cycle.response_complete)

    def _fits(self) -> bool:
        return self.head_bytes <= self.settings.max_header_bytes and self.head_fields <= self.settings.max_header_fields

    def _too_large(self) -> Refusal:
        size, fields = self.settings.max_header_bytes, self.settings.max_header_fields
        detail = (
            f"the request line and headers have at most {size:,} bytes in {fields} fields; boxes can go in a multipart form"
        )
        return Refusal("headers_too_large", detail, limit=size)

    def _start_clock(self) -> None:
        if self.clock is None:
            self.clock = self.loop.call_later(self.settings.header_timeout_s, self._too_slow)

    def _stop_clock(self) -> None:
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None

    def _too_slow(self) -> None:
        self.clock = None
        if self.in_head:
            seconds = self.settings.header_timeout_s
            self._cut(Refusal("receive_timeout", f"the request's head did not arrive within {seconds:g} s"))
        elif self._idle():
            self.transport.close()

    def _watch_reading(self, before: int | None = None) -> None:
        """Look again later while something of the answer is unread; cut the client off if it has read next to nothing since."""
        if self.reading is not None:
            self.reading.cancel()
            self.reading = None
        left = self.transport.get_write_buffer_size()
        if left == 0:
            return
        if before is not None and before - left < UNREAD_S * self.settings.min_body_rate:
            self.transport.abort()
            return
        self.reading = self.loop.call_later(UNREAD_S, self._watch_reading, left)


class _Ending:
    """What a request's cycle sees of the transport: its `close` is the connection's `end`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        self.connection.end()


def _raw(error: Refusal) -> bytes:
    """A problem as the bytes of a whole answer."""
    response = problem_response(error, uuid.uuid4().hex)
    head = f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}\r\nconnection: close\r\n".encode()
    fields = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers if name != b"x-insloc-code")
    return head + fields + b"\r\n" + bytes(response.body)
