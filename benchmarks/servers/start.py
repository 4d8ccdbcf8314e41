"""A server as a process group: start it, wait until it is ready, freeze it, read its memory and its time, end all of it.

A group, since LitServe is five processes, and four of them outlive a SIGTERM to the first. While another server is measured
a group is frozen by SIGSTOP: a batching window of LitServe polls also when nobody asks. Linux only (/proc).
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

THREADS = 2  # cores and threads of every contender
READY_S = 300.0  # a machine with other work to do
POLL_S = 0.1
END_S = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """How a server is started and asked."""

    name: str
    command: tuple[str, ...]
    """`{port}` in it is the port."""
    path: str
    """Of a request; the body is an image."""
    ready: str
    """Path that gives 200 once it can answer."""
    threads: int = THREADS
    """OMP_NUM_THREADS, which torch takes on every thread of a process; torch.set_num_threads holds for one."""
    headers: tuple[tuple[str, str], ...] = ()
    """Of a request with a deadline."""


class Keeper:
    """A process that ends the groups it was told of when this one is gone, however it went (also by SIGKILL)."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True)

    def watch(self, group: int) -> None:
        """`group` must not outlive us."""
        self._say(f"+{group}")

    def forget(self, group: int) -> None:
        """It has ended; its number may become somebody else's."""
        self._say(f"-{group}")

    def close(self) -> None:
        """End it, and with it what it still knows of."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _say(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()


class Server:
    """A running server; made by `started`."""

    def __init__(self, program: Program, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.program = program
        self.process = process
        self.port = port
        self.log = log

    def wait_ready(self) -> None:
        """Until it answers. RuntimeError: it ended, or takes too long; with the end of its log."""
        end = time.monotonic() + READY_S
        while not answers(self.port, self.program.ready):
            if self.process.poll() is not None or time.monotonic() > end:
                tail = "".join(f"\n    {line}" for line in self.log.read_text(errors="replace").splitlines()[-12:])
                raise RuntimeError(f"{self.program.name} did not start; the end of its log:{tail}")
            time.sleep(POLL_S)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """In the block it runs, before and after it is frozen."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            self.freeze()

    def freeze(self) -> None:
        """It gets no time until it is `awake`."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGSTOP)

    def pss_bytes(self) -> int:
        """Proportional set size of all its processes: pages that they share count once."""
        return sum(pss_bytes(pid) for pid in members(self.process.pid))

    def cpu_s(self) -> float:
        """Processor seconds of its living processes."""
        return sum(cpu_s(pid) for pid in members(self.process.pid))

    def stop(self) -> None:
        """End all of it; at once, since nothing that it has matters. RuntimeError: something of it is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        end = time.monotonic() + END_S
        while members(self.process.pid):
            if time.monotonic() > end:
                raise RuntimeError(f"{self.program.name}: processes {members(self.process.pid)} do not end")
            time.sleep(POLL_S)


@contextmanager
def started(program: Program, folder: Path, keeper: Keeper) -> Iterator[Server]:
    """The server, ready; ended with the block. `folder` takes its log and its temporary files. RuntimeError."""
    port = free_port()
    log = folder / f"{port}.log"
    cores = server_cores()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [word.format(port=port) for word in program.command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(program.threads),
                "PYTHONPATH": python_path(),
                "TMPDIR": str(folder),
            },
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    server = Server(program, process, port, log)
    try:
        keeper.watch(process.pid)
        server.wait_ready()
        yield server
    finally:
        server.stop()
        keeper.forget(process.pid)


def server_cores() -> set[int]:
    """The cores of every contender: as many as it has threads, of those that this process may use."""
    return set(sorted(os.sched_getaffinity(0))[:THREADS])


def client_cores() -> set[int]:
    """The client's: what the contenders leave, or theirs, where there are no others."""
    return os.sched_getaffinity(0) - server_cores() or server_cores()


def python_path() -> str:
    """The folders of this process's imports: the other one's are the same, wherever the command is given."""
    return os.pathsep.join(path for path in sys.path if path)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int, path: str) -> bool:
    """Whether GET `path` gives 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return int(response.status) == 200
    except (OSError, urllib.error.HTTPError):
        return False


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            state = stat_fields(int(entry.name))
            if state and int(state[2]) == group and state[0] != "Z":
                found.append(int(entry.name))
    return found


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state, parent, group, ...); none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_s(pid: int) -> float:
    """Processor seconds of all its threads, to the nanosecond (/proc has ticks of 10 ms); 0 if the process is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid gives for a process of Linux
    except OSError:
        return 0.0


def pss_bytes(pid: int) -> int:
    """Proportional set size; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def busy_cores(seconds: float) -> float:
    """How many cores were busy or stolen meanwhile, by anybody. While all of ours sleeps, that is others' work."""

    def busy() -> float:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / TICKS

    before, start = busy(), time.monotonic()
    time.sleep(seconds)
    return (busy() - before) / (time.monotonic() - start)


def keep() -> None:
    """The keeper's life: remember groups until nobody speaks any more, then end those that are left."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    keep()
