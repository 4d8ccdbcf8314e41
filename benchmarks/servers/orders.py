"""A process that does what it is told in JSON lines: the client and the offline loop, each outside the benchmark's own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from servers.start import Keeper, python_path

Answer = dict[str, Any]


class Worker:
    """The other process, as the benchmark sees it. Use it as a context: it has ended when the block does."""

    def __init__(self, script: str, words: list[str], env: dict[str, str], keeper: Keeper, cores: set[int]) -> None:
        command = [sys.executable, str(Path(__file__).with_name(script)), *words]
        self.name = script
        self.keeper = keeper
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **env, "PYTHONPATH": python_path()},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        keeper.watch(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.keeper.forget(self.process.pid)

    def ask(self, **order: Any) -> Answer:
        """What became of one order. RuntimeError: the process ended, or what it was told to do failed there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}; its error stands above")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer


def obey(handlers: dict[str, Callable[..., Answer]]) -> None:
    """The other process's life: an order a line from stdin, its outcome a line to stdout, until there are no more."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not stand among the answers
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = handlers[order.pop("do")](**order)
        except (OSError, RuntimeError, ValueError, TimeoutError, EOFError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()
