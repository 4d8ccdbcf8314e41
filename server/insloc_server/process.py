"""What the process owns: the listening socket and the signals that end it. No torch: a taken port is refused at once."""

import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from insloc_hub.errors import InslocError
from insloc_server.settings import PREFIX, Settings


class Stopped(BaseException):
    """A signal asked the process to end. No Exception: what catches those while a model loads must not catch this."""


class Forced(Stopped):
    """A second signal did: nothing is waited for."""


def listening(settings: Settings) -> AbstractContextManager[socket.socket]:
    """The socket that the settings ask for, as by `bound`."""
    return bound(settings.host, settings.port, f"--port or {PREFIX}PORT")


@contextmanager
def bound(host: str, port: int, choose: str = "--port") -> Iterator[socket.socket]:
    """The bound socket, closed at the end. InslocError: the port is taken (`choose` says how to take another), or there is
    no such address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InslocError(f"can't listen on {host}: {error.strerror or error}") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(1)  # a second server must see at once that the port is taken, not after loading its model
        except OSError as error:
            raise InslocError(f"can't listen on {host} port {port}: {_reason(error, choose)}") from None
        yield listener


def url_of(listener: socket.socket) -> str:
    """What a client on this machine puts before the path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def until_stopped() -> Iterator[None]:
    """In the block, SIGTERM and SIGINT end the block without an error. While uvicorn runs it has them, and finishes first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Stopped:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(error: OSError, choose: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"another program has it; choose one with {choose} (0 takes a free one)"
    return error.strerror or str(error)
