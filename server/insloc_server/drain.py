"""uvicorn's server with doors of its own, a rest between rushes, and an end that loses nothing that was let in (serving.md 4).

asyncio lets one process take all that waits at a door, however many processes stand there; here it takes one at a time.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from insloc_server.memory import Rest, give_back

log = logging.getLogger(__name__)

AT_ONCE = 64  # connections let in before others get a turn
PAUSE_S = 1.0  # where the process has no file descriptor left


class Server(uvicorn.Server):
    """Keeps answering for a while after SIGTERM: whoever sends requests here learns of it late."""

    at_once = AT_ONCE
    """1 where other processes stand at the same door."""
    opened: Callable[[], None] | None = None
    """Called when the app has started and the doors are open."""
    drained: float | None = None
    """By the monotonic clock, when it stops to accept."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then open the doors."""
        await super().startup(sockets=[])
        self._rest = Rest()
        self._entering: set[asyncio.Task[Any]] = set()
        for door in sockets or []:
            door.setblocking(False)
            door.listen(self.config.backlog)
            self._open(door)
        if self.opened is not None:
            self.opened()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: not ready from now on, and the end after a delay. SIGINT: without delay. A second one: at once."""
        self._captured_signals.append(sig)
        state = self.config.app.state  # type: ignore[union-attr]
        if state.draining:
            self.should_exit = self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            return
        state.draining = True
        delay = state.settings.drain_delay_s if sig == signal.SIGTERM else 0
        self.drained = time.monotonic() + delay

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end. At rest, free memory goes back to the system."""
        room = self.config.app.state.engine.room  # type: ignore[union-attr]
        if self._rest.comes(room.in_work.images, room.came, time.monotonic()):
            await asyncio.to_thread(give_back)
        if self.drained is not None and time.monotonic() >= self.drained:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in who stands at the door, then close it: a connection that the kernel has made is a promise."""
        for door in sockets or []:
            asyncio.get_running_loop().remove_reader(door)
            while not self.force_exit and self._take_in(door):
                pass
            door.close()  # before anything is waited for: whoever came in between would be cut off
        if self._entering:
            await asyncio.wait(self._entering)
        await super().shutdown(sockets)

    def _open(self, door: socket.socket) -> None:
        if door.fileno() >= 0:
            asyncio.get_running_loop().add_reader(door, self._welcome, door)

    def _welcome(self, door: socket.socket) -> None:
        for _ in range(self.at_once):
            if not self._take_in(door):
                return

    def _take_in(self, door: socket.socket) -> bool:
        loop = asyncio.get_running_loop()
        try:
            connection, _ = door.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            log.error("can't take in a connection: %s", error.strerror)
            loop.remove_reader(door)
            loop.call_later(PAUSE_S, self._open, door)
            return False
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)
        return True

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[no-any-return]
