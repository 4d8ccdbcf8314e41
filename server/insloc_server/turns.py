"""Threads for decoding and encoding, shared by turns: however much one client has sent, another waits for one image of his.

A request's images are steps, done one by one, and after each step it is the next client's turn. A common pool would do a
request of 32 images before the one image of somebody else.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True, slots=True, eq=False)
class Task:
    """A request's steps, and what they have given so far. The future is pending until the end: it can be cancelled."""

    steps: Iterator[Any]
    count: int
    future: "Future[list[Any]]" = field(default_factory=Future)
    given: list[Any] = field(default_factory=list)

    def go_on(self) -> bool:
        """Do a step; whether there is more to do. What a step raises is the future's."""
        if self.future.cancelled():
            return False
        try:
            self.given.append(next(self.steps))
        except BaseException as error:  # a thread that died of it would take all others' turns with it
            if self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)
            return False
        if len(self.given) < self.count:
            return True
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(self.given)
        return False


class Turns:
    """`count` threads, until `close`; each does `begin` first."""

    def __init__(self, count: int, name: str, begin: Callable[[], object] = lambda: None) -> None:
        self._begin = begin
        self._changed = threading.Condition()
        self._lines: dict[str, deque[Task]] = {}  # never an empty line; the first client is whose turn it is
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}") for n in range(count)]
        for thread in self._threads:
            thread.start()

    def take(self, client: str, steps: Iterator[Any], count: int) -> "Future[list[Any]]":
        """Done when `count` steps (at least 1) are, with what they gave. A client's requests are done in their order."""
        task = Task(steps=steps, count=count)
        with self._changed:
            if self._closing:
                raise RuntimeError("the threads have ended")
            self._lines.setdefault(client, deque()).append(task)
            self._changed.notify()
        return task.future

    def close(self) -> None:
        """Do what there is, then end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        self._begin()
        while True:
            with self._changed:
                while not (self._lines or self._closing):
                    self._changed.wait()
                if not self._lines:
                    return
                client = next(iter(self._lines))
                line = self._lines.pop(client)
                task = line.popleft()
                if line:
                    self._lines[client] = line  # behind the others
            if task.go_on():
                with self._changed:
                    self._lines.setdefault(client, deque()).appendleft(task)
                    self._changed.notify()
