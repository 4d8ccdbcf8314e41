"""Several processes at one door, and the one that keeps them. No torch here: each worker loads it for itself.

The keeper starts the first worker alone (a model that can't be had is one error, not N), replaces one that dies, passes
signals on, and waits. The door is the keeper's: while a worker is replaced, nobody is turned away.
"""

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import Synchronized
from threading import Thread
from typing import Any

from insloc_hub.errors import InslocError
from insloc_server.peers import Peers
from insloc_server.process import Forced, bound, until_stopped, url_of
from insloc_server.settings import Settings

log = logging.getLogger(__name__)

ENDING = (signal.SIGTERM, signal.SIGINT)
MOST_DEATHS = 5  # a worker, in DEATHS_S; more of them and the model or the machine is broken
DEATHS_S = 60.0
MARGIN_S = 5.0  # beyond the time that workers have to end
LAST_S = 1.0  # for workers whose keeper was killed

Work = Callable[[Settings, list[socket.socket], Peers, Any, Callable[[], None]], None]
"""Settings, doors, the other workers, the count of restarts, what to call when ready."""


class Keeper:
    """The workers of a server by their number, and what starts one."""

    def __init__(self, settings: Settings, door: socket.socket, inner: list[socket.socket], work: Work) -> None:
        self.settings, self.door, self.inner, self.work = settings, door, inner, work
        self.context = multiprocessing.get_context("fork")  # safe: this process has one thread, and never loads torch
        self.peers = Peers(ports=tuple(one.getsockname()[1] for one in inner), own=0)
        self.restarts: Synchronized[int] = self.context.Value("i", 0)
        self.workers: dict[int, tuple[ForkProcess, Connection]] = {}
        self.deaths: list[float] = []

    def start(self, index: int) -> None:
        """Start worker number `index`."""
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=self._worker, args=(index, theirs), name=f"insloc-worker-{index}")
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # else one could come before the worker has its own handlers
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        theirs.close()
        self.workers[index] = (process, ours)

    def ready(self, index: int, signals: int) -> bool:
        """Wait until worker `index` serves; False: a signal came first. InslocError: it can't serve, and why."""
        process, said = self.workers[index]
        if signals in wait([process.sentinel, said, signals]):
            return False
        try:
            problem = said.recv()
        except EOFError:
            problem = "a worker ended while it started; the reason is in the log"
        if problem:
            raise InslocError(problem)
        return True

    def replace_dead(self) -> None:
        """Start anew whoever has died. InslocError: that happens again and again."""
        for index, (process, said) in list(self.workers.items()):
            if process.is_alive():
                continue
            problem = said.recv() if said.poll() and not process.exitcode else ""
            said.close()
            now = time.monotonic()
            self.deaths = [at for at in self.deaths if now - at < DEATHS_S] + [now]
            if len(self.deaths) > MOST_DEATHS * len(self.workers):
                raise InslocError("workers die again and again; the reason is in the log")
            log.error("worker %d died (%s); a new one starts", index, problem or f"exit code {process.exitcode}")
            self.restarts.value += 1
            self.start(index)

    def send(self, number: int) -> None:
        """Pass a signal on to all workers."""
        for process, _ in self.workers.values():
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    def end(self, number: int, signals: int) -> None:
        """Pass the signal on and wait for all workers; a second signal, or too long a wait, kills them."""
        self.door.close()  # theirs are open still; when they are closed, nobody may wait at ours
        self.send(number)
        delay = self.settings.drain_delay_s if number == signal.SIGTERM else 0
        until = time.monotonic() + delay + self.settings.drain_timeout_s + MARGIN_S
        while alive := [process.sentinel for process, _ in self.workers.values() if process.is_alive()]:
            there = wait([*alive, signals], timeout=max(0.0, until - time.monotonic()))
            if not there or signals in there:
                self.kill()

    def kill(self) -> None:
        """End all workers now."""
        self.send(signal.SIGKILL)
        for process, _ in self.workers.values():
            process.join()

    def _worker(self, index: int, said: Connection) -> None:
        os.setpgid(0, 0)  # Ctrl-C in a terminal goes to the keeper alone, who passes it on
        Thread(target=_end_with_keeper, daemon=True).start()
        peers = Peers(ports=self.peers.ports, own=index, secret=self.peers.secret)
        with until_stopped():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            try:
                doors = [self.door, self.inner[index]]
                self.work(self.settings, doors, peers, self.restarts, lambda: said.send(""))
            except InslocError as error:
                said.send(str(error))
            except Forced:
                signal.raise_signal(signal.SIGKILL)


def supervise(settings: Settings, door: socket.socket, work: Work) -> None:
    """Keep `settings.workers` workers at `door` until SIGTERM or SIGINT has ended them. InslocError."""
    with _doors(settings.workers) as inner, _signals() as (signals, asked):
        keeper = Keeper(settings, door, inner, work)
        try:
            for index in range(settings.workers):
                keeper.start(index)
                if index == 0 and not keeper.ready(0, signals):
                    break
            else:
                if all(keeper.ready(index, signals) for index in range(1, settings.workers)):
                    log.info("serving %s at %s with %d workers", settings.model, url_of(door), settings.workers)
            while not asked:
                wait([signals, *(process.sentinel for process, _ in keeper.workers.values())])
                if not asked:
                    keeper.replace_dead()
            os.read(signals, 1)
            keeper.end(asked[0], signals)
        finally:
            keeper.kill()


def _end_with_keeper() -> None:
    """A killed keeper leaves no orphan: end what is in work, and soon."""
    keeper = multiprocessing.parent_process()
    assert keeper is not None
    keeper.join()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(LAST_S)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _doors(count: int) -> Iterator[list[socket.socket]]:
    """A listening socket on loopback for each worker, where the others ask it."""
    with ExitStack() as stack:
        yield [stack.enter_context(bound("127.0.0.1", 0)) for _ in range(count)]


@contextmanager
def _signals() -> Iterator[tuple[int, list[int]]]:
    """In the block, SIGTERM and SIGINT are noted in the list, and make the file descriptor readable; nothing is raised."""
    readable, writable = os.pipe()
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        os.write(writable, b"!")

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield readable, asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
