"""Run the app with uvicorn: until a signal, or in a thread beside the caller's own work."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import uvicorn

from insloc_hub import load
from insloc_hub.errors import InslocError
from insloc_hub.models.extractor import Extractor
from insloc_server.app import create_app
from insloc_server.connection import Connection
from insloc_server.drain import Server
from insloc_server.memory import few_arenas
from insloc_server.peers import Peers
from insloc_server.process import Forced, listening, url_of
from insloc_server.settings import Settings
from insloc_server.threads import apart

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75  # longer than a proxy in front keeps an idle connection, so that the proxy closes first
POLL_S = 0.02


def serve(settings: Settings, listener: socket.socket) -> None:
    """Load the model and serve on `listener` until SIGTERM or SIGINT; requests in work are finished. InslocError.

    Ends with Stopped, as the signal asks; with Forced if there was a second one.
    """
    server = load_server(settings)
    log.info("serving %s at %s", settings.model, url_of(listener))
    run(server, [listener])


def work(settings: Settings, doors: list[socket.socket], peers: Peers, restarts: Any, ready: Callable[[], None]) -> None:
    """The same as one of several processes; `restarts` is their shared count, `ready` is called once this one serves."""
    server = load_server(settings)
    state = server.config.app.state  # type: ignore[union-attr]
    state.peers = peers
    state.metrics.restarts.set_function(lambda: float(restarts.value))
    server.at_once = 1
    server.opened = ready
    run(server, doors)


def load_server(settings: Settings) -> Server:
    """The model, and a server around it; the process is its own. InslocError."""
    few_arenas()
    threads = settings.threads
    if not threads and settings.workers > 1:
        threads = max(1, torch.get_num_threads() // settings.workers)  # more would only wait for each other
    if threads:
        torch.set_num_threads(threads)
    return make_server(settings, apart(lambda: load(settings.models[0], settings.device, settings.precision)))


@contextmanager
def running(settings: Settings, extractor: Extractor | None = None) -> Iterator[str]:
    """A server in a thread of this process: its URL, ready when the block begins, gone when it ends.

    `port=0` in the settings takes a free port; `extractor` serves a model that is loaded already. InslocError: it can't
    start.

    >>> import urllib.request
    >>> with running(Settings(model="random:resnet18", port=0)) as url:
    ...     urllib.request.urlopen(url + "/readyz").status
    200
    """
    with listening(settings) as listener:
        model = extractor or apart(lambda: load(settings.models[0], settings.device, settings.precision))
        server = make_server(settings, model)
        thread = threading.Thread(target=run, args=(server, [listener]), name="insloc-server")
        url = url_of(listener)
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(POLL_S)
            if not server.started:
                raise InslocError("the server did not start; the reason is in the log")
            server.config.app.state.engine.warm.result()  # type: ignore[union-attr]
            yield url
        finally:
            server.should_exit = True
            thread.join()


def run(server: Server, doors: list[socket.socket]) -> None:
    """Serve until told to stop. Forced: by a second signal, with threads that still run."""
    try:
        server.run(sockets=doors)
    finally:
        if server.force_exit:
            raise Forced
        engine = server.config.app.state.engine  # type: ignore[union-attr]
        if engine is not None:
            engine.close()


def make_server(settings: Settings, extractor: Extractor) -> Server:
    """uvicorn around the app, with our limits and without logging of its own."""
    config = uvicorn.Config(
        create_app(settings, extractor),
        http=partial(Connection, settings),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=settings.max_connections,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    return Server(config)
