"""Rounds: in each, every contender once, in random order, with the same planned arrivals; the others are frozen meanwhile."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from servers.orders import Answer
from servers.start import busy_cores

PROBE_S = 1.0
CAPACITY = ("ours", "8 clients")
FIRST_ROUND = 1_000_000  # in place of every so-manieth
TOO_MUCH = 0.4  # of a core, for a client that shares the servers' (serving.md 3)
LATE_MS = 20.0  # p99, of the client's own delay, which counts as latency
NOISY_CORES = 0.1  # of others' work in a second in which none of ours runs

Round = dict[tuple[str, str], Answer]
"""(contender, load) -> what was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is asked of a contender in one window."""

    name: str
    clients: int = 0
    """Of a closed loop."""
    rate: float = 0.0
    """Planned arrivals a second of an open loop."""
    of_capacity: float = 0.0
    """In place of `rate`: so many times what we answered at 8 clients in this round, since a shared machine's speed moves."""
    told: bool = True
    """Whether a request says its deadline, where the contender's interface has a word for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A contender under a load, in every so-manieth round."""

    who: str
    load: Load
    every: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """How long is measured; seconds."""

    ramp_s: float = 0.3
    closed_s: float = 1.3
    open_ramp_s: float = 1.1
    """Longer than the deadline: by then a queue that grows is as long as it will be useful."""
    open_s: float = 2.2


def play(
    cases: Sequence[Case],
    rounds: int,
    one: Callable[[str, Load, int], Answer],
    awake: Callable[[str], object],
    say: Callable[[str], None],
) -> tuple[list[Round], list[int]]:
    """All rounds, and the numbers of those in which others worked on this machine.

    `one` measures (contender, load, seed); `awake` gives the context in which a contender runs.
    """
    played: list[Round] = []
    noise: list[float] = []
    for number in range(rounds):
        noise.append(noise_before(f"round {number + 1} of {rounds}", say))
        due = [case for case in cases if number % case.every == 0]
        order = list(dict.fromkeys(case.who for case in due))
        random.Random(number).shuffle(order)
        follow = {case.who for case in due if case.load.of_capacity} - {CAPACITY[0]}
        found: Round = {}
        for who in sorted(order, key=lambda who: who in follow):
            with awake(who):  # type: ignore[attr-defined]
                for load in (case.load for case in due if case.who == who):
                    found[who, load.name] = one(who, planned(load, found), number)
                    say(f"  {who:14} {load.name:22} {words(found[who, load.name])}")
        played.append(found)
    noise.append(noise_before("after the last round", say))
    noisy = [number + 1 for number in range(rounds) if max(noise[number : number + 2]) > NOISY_CORES]
    return played, noisy


def planned(load: Load, found: Round) -> Load:
    """The load with its rate, from what the round has found so far."""
    return replace(load, rate=load.of_capacity * found[CAPACITY]["rate"]) if load.of_capacity else load


def noise_before(what: str, say: Callable[[str], None]) -> float:
    """Cores that others keep busy, and the load average, which has our own last minute in it."""
    with open("/proc/loadavg") as file:
        load = file.read().split()[0]
    cores = busy_cores(PROBE_S)
    say(f"{what}: load average {load}; others keep {cores:.2f} cores busy{' (noisy)' if cores > NOISY_CORES else ''}")
    return cores


def words(answer: Answer) -> str:
    """A measurement in a line."""
    parts = [f"{answer['rate']:7.1f}/s"]
    if "offered" in answer:
        parts[0] += f" good of {answer['offered']:.1f}/s"
    if answer.get("p50_ms") is not None:
        parts.append(f"p50 {answer['p50_ms']:.0f} ms, p99 {answer['p99_ms']:.0f} ms")
    bad = {name: count for name, count in answer.get("statuses", {}).items() if name != "200"}
    if bad:
        parts.append(", ".join(f"{name}: {count}" for name, count in sorted(bad.items())))
    if answer.get("refused", {}).get("p50_ms") is not None:
        parts.append(f"refused in p50 {answer['refused']['p50_ms']:.0f} ms, p99 {answer['refused']['p99_ms']:.0f} ms")
    if (answer.get("sent_late_ms") or 0) > LATE_MS:
        parts.append(f"sent up to {answer['sent_late_ms']:.0f} ms after the planned time")
    if "client_cpu" in answer:
        much = ": too much" if answer["client_cpu"] > TOO_MUCH else ""
        parts.append(f"client {100 * answer['client_cpu']:.0f} % of a core{much}")
    return "; ".join(parts)


def cases(finalists: Mapping[str, Mapping[int, str]], slowest: float, others: Sequence[str]) -> list[Case]:
    """What is measured. In every round: what a reach is about; in every other one what else has a line; the rest in the first.

    `finalists`: for LitServe with timm's model and with ours, the contender that is its best cell at so many clients.
    `slowest` is the rate of the slowest at 8 clients, before the rounds; `others`: "ours onnx", "fastapi", if there.
    """
    clients = {count: Load(name=f"{count} clients" if count > 1 else "1 client", clients=count) for count in (1, 2, 8, 32)}
    own, light = Load(name="2.0 x our capacity", of_capacity=2.0), Load(name="0.8 x our capacity", of_capacity=0.8)
    over = Load(name="2.0 x the slowest", rate=2 * slowest)
    curve = [Load(name=f"{share} x the slowest", rate=share * slowest) for share in (0.5, 0.8, 1.0, 1.2)]
    timm, given = finalists["timm"], finalists["given"]
    every = [Case(who="ours", load=load) for load in (*clients.values(), light, own, over)]
    every += [Case(who=given[count], load=load) for count, load in clients.items()]
    every += [
        Case(who=timm[8], load=clients[8]),
        Case(who="offline", load=Load(name="loop")),
        Case(who="timm tuned", load=over),
    ]
    every += [Case(who="ours onnx", load=clients[8])] if "ours onnx" in others else []
    lines = [Case(who="ours", load=replace(over, name=f"{over.name}, not told", told=False))]
    lines += [Case(who="given tuned", load=own), Case(who=timm[8], load=over)]
    lines += [Case(who="fastapi", load=clients[8])]
    shown = [Case(who=timm[count], load=clients[count]) for count in (1, 2, 32)]
    shown += [Case(who=who, load=load) for who in others for load in (*clients.values(), over)]
    shown += [Case(who=who, load=load) for who in ("ours", timm[8], *others) for load in curve]
    found: dict[tuple[str, str], Case] = {}
    for some, how_often in ((shown, FIRST_ROUND), (lines, 2), (every, 1)):
        found |= {(case.who, case.load.name): replace(case, every=how_often) for case in some}
    return list(found.values())
