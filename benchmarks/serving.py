"""Our server against LitServe 0.2.19 and plain FastAPI, side by side in one run (serving.md 3; docs/speed.md, "Serving").

    python benchmarks/serving.py --model resnet50      # about 16 minutes
    python benchmarks/serving.py --model resnet18
    python benchmarks/serving.py --smoke               # every stage for a second or two: shows that it runs

Linux, two cores that are free, 10 GB of memory (the contenders stay in it, frozen); `pip install -e '.[bench]'` first.
Stages: do all answer the same (else exit 1, and no number); LitServe's best settings; memory and idling, each alone; rounds.
Progress goes to stderr, JSON lines to stdout. However it ends, no server is left.
"""

import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from servers import contenders, rows
from servers.bench import EIGHT, SMOKE, Bench, Plan
from servers.orders import Answer, Worker
from servers.rounds import Load, cases, play, words
from servers.search import Best, Cell, Grid, search
from servers.start import THREADS, Keeper, Program, client_cores

TOLERANCE = 1e-4  # of the largest absolute value
CELL_IN_TURN = Cell(batch=4, window_ms=5)  # of the comparison of answers: mixed sizes share its batches

WHOLE = ("ours", "timm", "given", "fastapi")  # the slowest of these sets the loads; the others are settings of theirs


class NoComparison(Exception):
    """The contenders do not do the same work."""


def main(model: Literal["resnet50", "resnet18"] = "resnet50", *, rounds: int = 10, smoke: bool = False) -> int:
    """Compare the servers; the exit code.

    Args:
        model: timm architecture, with random weights.
        rounds: Each is every contender once; below 5 nothing holds.
        smoke: resnet18, one round, short windows.
    """
    lacks = contenders.missing()
    if lacks or rounds < 1 or not sys.platform.startswith("linux"):
        print(f"serving: {lacks or 'it takes Linux and at least one round'}", file=sys.stderr)
        return 2
    arch, plan, count = ("resnet18", SMOKE, 1) if smoke else (model, Plan(), rounds)
    with ExitStack() as stack:
        keeper = Keeper()
        stack.callback(keeper.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        client = stack.enter_context(Worker("client.py", [], {}, keeper, client_cores()))
        bench = Bench(arch, plan, folder, keeper, client)
        try:
            lines = compare(bench, count)
        except (NoComparison, RuntimeError) as error:
            print(f"serving: {error}", file=sys.stderr)
            return 1
    if smoke:
        lines = [{**line, "holds": False} for line in lines]
    rows.print_lines(arch, lines, rows.machine(smoke))
    return 0


def compare(bench: Bench, count: int) -> list[rows.Row]:
    """All stages; the lines of their outcome. NoComparison, RuntimeError."""
    check_answers(bench)
    timm = find_best(bench, "timm", bench.plan.grid)
    given = find_best(bench, "ours", narrowed(timm, bench.plan.grid))
    tuned = find_timeout(bench, timm.at(8))
    spent = compare_memory(bench, timm.at(8))
    programs = {
        "ours": contenders.ours(bench.arch),
        **({} if contenders.no_onnx() else {"ours onnx": contenders.ours(bench.arch, "onnx")}),
        "timm": contenders.litserve(bench.arch, timm.at(8), "timm"),
        "timm 1": contenders.litserve(bench.arch, timm.at(1), "timm"),
        "timm tuned": contenders.litserve(bench.arch, tuned, "timm"),
        "given": contenders.litserve(bench.arch, given.at(8), "ours"),
        "given 1": contenders.litserve(bench.arch, given.at(1), "ours"),
        "given tuned": contenders.litserve(bench.arch, replace(given.at(8), timeout_s=tuned.timeout_s), "ours"),
        "fastapi": contenders.fastapi(bench.arch, best_fastapi(bench)),
    }
    lines = play_rounds(bench, programs, count)
    return [*lines, *spent]


def check_answers(bench: Bench) -> None:
    """NoComparison: a contender's vectors are not those of the offline loop."""
    asked = bench.plan.pictures
    bench.say(f"do all answer the same? {asked} pictures of mixed size")
    engines = ["auto"] if contenders.no_onnx() else ["auto", "onnx"]
    programs = [
        *(contenders.ours(bench.arch, engine) for engine in engines),
        contenders.litserve(bench.arch, CELL_IN_TURN, "timm"),
        contenders.litserve(bench.arch, CELL_IN_TURN, "ours"),
        contenders.fastapi(bench.arch),
    ]
    with bench.offline() as offline:
        wanted = np.array(offline.ask(do="vectors", count=asked)["vectors"])
    for program in programs:
        with bench.start(program) as server:
            got = bench.client.ask(do="vectors", port=server.port, path=program.path, count=asked)["vectors"]
        bench.say(f"  {program.name}: {check_equal(program.name, wanted, got)}")


def check_equal(name: str, wanted: np.ndarray, got: Sequence[Sequence[float]]) -> str:
    """How far they are apart, in words. NoComparison: too far."""
    found = np.array(got)
    if found.shape != wanted.shape:
        raise NoComparison(f"{name} gives vectors {list(found.shape)}, not {list(wanted.shape)}: nothing is compared")
    apart = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not apart <= TOLERANCE:
        raise NoComparison(f"{name} gives other vectors, by {apart:.1e} of the largest value: nothing is compared")
    return f"yes, within {apart:.1e} of the largest value"


def find_best(bench: Bench, model: Literal["timm", "ours"], grid: Grid) -> Best:
    """LitServe's best cell for 1 and for 8 clients."""
    bench.say(f"LitServe's settings with {'the plain timm model' if model == 'timm' else 'our model and engine'}")

    def rates(cell: Cell, loads: Sequence[int]) -> dict[int, float]:
        with bench.start(contenders.litserve(bench.arch, cell, model)) as server:
            found = {clients: bench.screen(server, replace(EIGHT, clients=clients))["rate"] for clients in loads}
        said = ", ".join(f"{rate:6.1f}/s at {clients}" for clients, rate in found.items())
        bench.say(f"  {cell!s:45} {said} clients")
        return found

    best = search(rates, (1, 8), grid)
    bench.say(
        f"  best at 1 client: {best.at(1)}; at 8: {best.at(8)}; {len(best.measured)} cells measured, one setting at a time"
    )
    return best


def narrowed(best: Best, grid: Grid) -> Grid:
    """The part of the grid that is tried with our model: what did well with timm's, no batch, no window, all workers."""
    cells = (best.at(1), best.at(8))
    windows = [window for window in grid.windows_ms if window == 0 or window in {cell.window_ms for cell in cells}]
    return Grid(
        batches=tuple(batch for batch in grid.batches if batch == 1 or batch in {cell.batch for cell in cells}),
        windows_ms=tuple(windows),
        workers=grid.workers,
        transports=tuple(name for name in grid.transports if name in {cell.transport for cell in cells}),
        first_window_ms=max(windows, default=grid.first_window_ms),
    )


def find_timeout(bench: Bench, cell: Cell) -> Cell:
    """The cell with the request time-out that gives most answers within the deadline at twice its capacity."""
    bench.say("LitServe's request time-out at 2 x its capacity, and useful answers")
    useful: dict[Cell, float] = {}
    rate = 0.0
    for timeout_s in bench.plan.timeouts_s:
        tried = replace(cell, timeout_s=timeout_s)
        with bench.start(contenders.litserve(bench.arch, tried, "timm")) as server:
            rate = rate or 2 * bench.screen(server, EIGHT)["rate"]
            answer = bench.screen(server, Load(name="overload", rate=rate))
        useful[tried] = answer["rate"]
        bench.say(f"  {timeout_s:4g} s {words(answer)}")
    return max(useful, key=lambda tried: useful[tried])


def best_fastapi(bench: Bench) -> int:
    """How many threads of torch suit FastAPI, whose pool runs several requests at a time."""
    found = {}
    for threads in range(1, THREADS + 1):
        with bench.start(contenders.fastapi(bench.arch, threads)) as server:
            found[threads] = bench.screen(server, EIGHT)["rate"]
        bench.say(f"FastAPI, {threads} torch threads a request: 8 clients {found[threads]:.1f}/s")
    return max(found, key=lambda threads: found[threads])


def compare_memory(bench: Bench, cell: Cell) -> list[rows.Row]:
    """Memory and idling, with one server alive at a time: pages that two of them share would count half in each."""
    bench.say("memory of all processes, warm and after an overload; idling, no connection open")
    found = {}
    for name, program in {
        "ours": contenders.ours(bench.arch),
        "imports": contenders.litserve(bench.arch, cell, "timm", imports="top"),
        "lean": contenders.litserve(bench.arch, cell, "timm"),
    }.items():
        with bench.start(program) as server:
            found[name] = bench.spent(server)
        warm, after, rest = (found[name][moment] / 2**20 for moment in ("warm", "after", "rest"))
        idle = float(np.median(found[name]["idle"]))
        megabytes = f"{warm:.0f} MiB, {after:.0f} MiB after, {rest:.0f} MiB at rest"
        bench.say(f"  {program.name}, {name}: {megabytes}; idle {100 * idle:.1f} % of a core")
    imports = "plain timm, best cell, torch imported at the top as its documentation does"
    lean = "plain timm, best cell, torch imported in its workers only"
    return [
        rows.memory(imports, found["ours"], found["imports"]),
        rows.memory(lean, found["ours"], found["lean"]),
        rows.memory(imports, found["ours"], found["imports"], rows.REST),
        rows.memory(lean, found["ours"], found["lean"], rows.REST),
        rows.limited("idle, cores; a limit of 1 %", "cores", found["ours"]["idle"], rows.LIMIT_IDLE, rows.LEAST_IDLE),
        rows.compared_idle(found["ours"]["idle"], found["imports"]["idle"]),
    ]


def play_rounds(bench: Bench, programs: dict[str, Program], count: int) -> list[rows.Row]:
    """Capacities, then the rounds; their lines."""
    with bench.frozen(list(programs.values())) as servers, bench.offline() as offline:

        def awake(who: str) -> AbstractContextManager[None]:
            return nullcontext() if who == "offline" else servers[programs[who]].awake()

        bench.say("capacities")
        found: dict[tuple[str, int], float] = {}
        for who, program in programs.items():
            for clients in (2, 8, 32) if who in ("timm", "timm 1", "given", "given 1") else (8,):
                load = replace(EIGHT, clients=clients)
                with awake(who):
                    server, long = servers[program], clients == 8 and who in WHOLE
                    answer = bench.screen(server, load) if long else bench.measure(server, load, bench.plan.windows, 0)
                found[who, clients] = answer["rate"]
                bench.say(f"  {who:14} {clients} clients: {words(answer)}")
        screen_s = bench.plan.screen.closed_s
        in_turn, ahead = (offline.ask(do="run", ahead=ahead, seconds=screen_s)["rate"] for ahead in (False, True))
        bench.say(f"  offline loop: in turn {in_turn:.1f}/s, decoding ahead {ahead:.1f}/s; the faster one is the base")
        finalists = {kind: finals(kind, found) for kind in ("timm", "given")}
        slowest = min(
            rate for (who, clients), rate in found.items() if clients == 8 and who in ("ours", "timm", "given", "fastapi")
        )
        others = [who for who in ("ours onnx", "fastapi") if who in programs]

        def one(who: str, load: Load, seed: int) -> Answer:
            if who == "offline":
                return offline.ask(do="run", ahead=ahead > in_turn, seconds=bench.plan.windows.closed_s)
            return bench.measure(servers[programs[who]], load, bench.plan.windows, seed)

        played, noisy = play(cases(finalists, slowest, others), count, one, awake, bench.say)
    bench.say(f"noisy rounds: {', '.join(map(str, noisy)) or 'none'}")
    return rows.served(bench.arch, played, finalists, contenders.no_onnx())


def finals(kind: str, found: Mapping[tuple[str, int], float]) -> dict[int, str]:
    """By number of clients, which of LitServe's two best cells stands for it: at 2 and 32 clients the better one."""
    both = (kind, f"{kind} 1")
    return {1: both[1], 8: both[0], **{clients: max(both, key=lambda who: found[who, clients]) for clients in (2, 32)}}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(tyro.cli(main))
    except KeyboardInterrupt:
        print("serving: stopped", file=sys.stderr)
        sys.exit(130)
