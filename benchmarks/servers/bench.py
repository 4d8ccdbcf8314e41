"""How much is measured, and what every stage of serving.py needs to measure it."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servers.contenders import DEADLINE_S
from servers.orders import Answer, Worker
from servers.rounds import Load, Windows
from servers.search import Grid
from servers.start import THREADS, Keeper, Program, Server, server_cores, started

EIGHT = Load(name="8 clients", clients=8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much is measured."""

    pictures: int = 32
    """Compared before anything is timed."""
    grid: Grid = field(default_factory=Grid)
    timeouts_s: tuple[float, ...] = (30.0, 1.0, 0.7, 0.5)
    """LitServe's request time-out, tried under overload."""
    screen: Windows = field(default_factory=lambda: Windows(ramp_s=1.0, closed_s=4.0))
    windows: Windows = field(default_factory=Windows)
    idle_s: int = 10
    settle_s: float = 2.0
    """Before idling is measured."""


SMOKE = Plan(
    pictures=8,
    grid=Grid(batches=(1, 4), windows_ms=(1,), workers=(1,), transports=("queue",), first_window_ms=1),
    timeouts_s=(0.5,),
    screen=Windows(ramp_s=0.3, closed_s=1.0, open_ramp_s=0.5, open_s=1.0),
    windows=Windows(ramp_s=0.2, closed_s=0.5, open_ramp_s=0.3, open_s=0.7),
    idle_s=2,
    settle_s=0.5,
)


class Bench:
    """What every stage needs: the client, a folder, the keeper of processes, the clock of the progress lines."""

    def __init__(self, arch: str, plan: Plan, folder: Path, keeper: Keeper, client: Worker) -> None:
        self.arch, self.plan, self.folder, self.keeper, self.client = arch, plan, folder, keeper, client
        self.since = time.monotonic()

    def say(self, line: str) -> None:
        """A line of progress, with the minutes so far."""
        print(f"[{(time.monotonic() - self.since) / 60:4.1f} min] {line}", file=sys.stderr, flush=True)

    def start(self, program: Program) -> AbstractContextManager[Server]:
        """The program as a server."""
        return started(program, self.folder, self.keeper)

    def offline(self) -> Worker:
        """The offline loop's process."""
        env = {"OMP_NUM_THREADS": str(THREADS)}
        return Worker("offline.py", ["--arch", self.arch], env, self.keeper, server_cores())

    def screen(self, server: Server, load: Load) -> Answer:
        """A window of the length that settings are compared with. RuntimeError: not a single answer in a closed loop."""
        answer = self.measure(server, load, self.plan.screen, 0)
        if load.clients and answer["rate"] == 0:
            raise RuntimeError(f"{server.program.name} answered nothing in time: this machine has too much else to do")
        return answer

    def measure(self, server: Server, load: Load, windows: Windows, seed: int) -> Answer:
        """A window of a server that is awake. What an overload has left in its queue is done when this returns."""
        at = {"port": server.port, "path": server.program.path}
        if load.clients:
            return self.client.ask(do="closed", clients=load.clients, warm_s=windows.ramp_s, seconds=windows.closed_s, **at)
        answer = self.client.ask(
            do="open",
            headers=dict(server.program.headers) if load.told else {},
            rate=load.rate,
            warm_s=windows.open_ramp_s,
            seconds=windows.open_s,
            seed=seed,
            deadline_s=DEADLINE_S,
            **at,
        )
        self.client.ask(do="last", **at)
        return answer

    @contextmanager
    def frozen(self, programs: Sequence[Program]) -> Iterator[dict[Program, Server]]:
        """All of them, started one after the other and frozen."""
        with ExitStack() as stack:
            servers = {}
            for program in dict.fromkeys(programs):
                servers[program] = stack.enter_context(self.start(program))
                servers[program].freeze()
            yield servers

    def spent(self, server: Server) -> Answer:
        """Bytes of memory `warm`, `after` an overload and at `rest` behind it; `idle` cores in each second."""
        rate = self.screen(server, EIGHT)["rate"]
        warm = server.pss_bytes()
        self.screen(server, Load(name="overload", rate=2 * rate))
        after = server.pss_bytes()
        time.sleep(self.plan.settle_s)
        idle = []
        for _ in range(self.plan.idle_s):
            before, start = server.cpu_s(), time.monotonic()
            time.sleep(1)
            idle.append((server.cpu_s() - before) / (time.monotonic() - start))
        return {"warm": warm, "after": after, "rest": server.pss_bytes(), "idle": idle}
