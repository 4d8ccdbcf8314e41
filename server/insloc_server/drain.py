"""The end of a server: whoever sends requests here learns of it late, and nothing that was let in is lost (serving.md 4)."""

import asyncio
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn


class Server(uvicorn.Server):
    """uvicorn's server, which keeps answering for a while after SIGTERM: whoever sends requests here learns of it late."""

    drained: float | None = None
    """By the monotonic clock, when it stops to accept."""

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
        """Ten times a second: whether to end."""
        if self.drained is not None and time.monotonic() >= self.drained:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in who stands at the door, then close it: a connection that the kernel has made is a promise."""
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            while not self.force_exit:
                try:
                    connection, _ = listener.accept()
                except OSError:  # nobody is left
                    break
                await loop.connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[no-any-return]
