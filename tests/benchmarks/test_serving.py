"""The parts of benchmarks/serving.py that need no LitServe: client, processes, search, rounds, rows, and what it refuses."""

import doctest
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
sys.path.insert(0, str(FOLDER))

import serving  # noqa: E402
from servers import bench, client, contenders, pictures, rounds, rows, search, start  # noqa: E402
from servers.orders import Worker  # noqa: E402

TOY = Path(__file__).with_name("toy_server.py")


def toy(path: str = "/ok", *words: str, name: str = "toy") -> start.Program:
    command = (sys.executable, str(TOY), "{port}", *words)
    return start.Program(name=name, command=command, path=path, ready="/", headers=(("x-deadline-ms", "1000"),))


@pytest.fixture
def keeper() -> Iterator[start.Keeper]:
    keeper = start.Keeper()
    yield keeper
    keeper.close()


@pytest.fixture
def asker(keeper: start.Keeper) -> Iterator[Worker]:
    with Worker("client.py", [], {}, keeper, start.client_cores()) as worker:
        yield worker


def wait_for(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# What is asked, and how it is counted


def test_pictures_are_photographs_in_size_and_in_what_they_cost() -> None:
    from insloc_hub.data.decode import decode

    (first, second), again = pictures.usual(2), pictures.usual(1)
    assert tuple(decode(first).shape) == (3, 375, 500) and first == again[0] and first != second
    assert 60_000 < len(first) < 150_000  # a photograph of this size and quality has about 90 kB
    assert len({tuple(decode(data).shape) for data in pictures.mixed(16)}) == 8


def test_arrivals_are_equal_for_equal_seeds_and_have_their_rate() -> None:
    one, same, other = client.poisson(50, 100, 1), client.poisson(50, 100, 1), client.poisson(50, 100, 2)
    assert one == same != other and one == sorted(one) and one[-1] < 100
    assert abs(len(one) - 5000) < 4 * 5000**0.5
    assert client.poisson(100, 50, 1) == pytest.approx([at / 2 for at in one])  # another rate: the same pattern, faster
    assert np.std(np.diff(one)) == pytest.approx(1 / 50, rel=0.1)  # of exponential gaps: as large as their mean


def test_a_request_counts_by_the_part_that_is_inside_of_the_window() -> None:
    assert client.share_inside(1, 3, 2, 10) == 0.5 and client.share_inside(3, 5, 2, 10) == 1
    spans = [(at / 10, at / 10 + 0.4) for at in range(-40, 140)]  # 10 begin and end in each second
    assert sum(client.share_inside(a, b, 2, 5) for a, b in spans) == pytest.approx(30)


def test_an_open_loop_counts_good_answers_alone_and_from_the_planned_time() -> None:
    late, broken = client.LATE, client.BROKEN
    outcomes = [
        (0.0, 0.0, 0.1, 200),
        (0.1, 0.5, 0.9, 200),
        (0.2, 0.0, 0.02, 429),
        (0.3, 0.0, 1.0, late),
        (0.4, 0.0, 0.1, broken),
    ]
    found = client.summary(outcomes, 2.0)
    assert found["rate"] == 1.0 and found["offered"] == 2.5
    assert found["statuses"] == {"200": 2, "429": 1, "late": 1, "broken": 1}
    assert found["p50_ms"] == 500 and found["refused"]["p99_ms"] == 20 and found["sent_late_ms"] > 400
    said = rounds.words({**found, "client_cpu": 0.5})
    assert said.startswith("    1.0/s good of 2.5/s; p50 500 ms") and "broken: 1, late: 1" in said
    assert "refused in p50 20 ms" in said and "ms after the planned time" in said and said.endswith("50 % of a core: too much")
    assert client.summary([], 1.0)["p50_ms"] is None


def test_a_closed_loop_keeps_a_connection_for_each_client(asker: Worker, keeper: start.Keeper, tmp_path: Path) -> None:
    with start.started(toy("/slow"), tmp_path, keeper) as server:
        found = asker.ask(do="closed", port=server.port, path="/slow", clients=3, warm_s=0.3, seconds=1.0)
        refused = asker.ask(do="closed", port=server.port, path="/refuse", clients=1, warm_s=0.0, seconds=0.3)
        assert connections(server) <= 3 + 1 + 5  # and those of `answers` and of this line
    assert set(found["statuses"]) == {"200"} and 0 < found["rate"] <= 3 / 0.2 * 1.01
    assert found["p50_ms"] >= 200 and found["client_cpu"] > 0
    assert refused["rate"] == 0 and refused["statuses"]["429"] > 0 and refused["p50_ms"] is None


def connections(server: start.Server) -> int:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/count") as response:
        return int(json.load(response)["connections"])


def test_an_open_loop_gives_up_after_the_deadline(asker: Worker, keeper: start.Keeper, tmp_path: Path) -> None:
    load = {"headers": {}, "rate": 20, "warm_s": 0.2, "seconds": 1.0, "seed": 3}
    with start.started(toy(), tmp_path, keeper) as server:
        slow = asker.ask(do="open", port=server.port, path="/slow", deadline_s=5.0, **load)
        never = asker.ask(do="open", port=server.port, path="/never", deadline_s=0.3, **load)
        refused = asker.ask(do="open", port=server.port, path="/refuse", deadline_s=5.0, **load)
        assert asker.ask(do="last", port=server.port, path="/ok") == {"status": 200}
    planned = sum(at >= 0.2 for at in client.poisson(20, 1.2, 3))
    assert slow["statuses"] == {"200": planned} and slow["rate"] == planned and slow["p50_ms"] >= 200
    assert never["statuses"] == {"late": planned} and never["rate"] == 0
    assert refused["statuses"] == {"429": planned} and refused["refused"]["p99_ms"] > 0


def test_what_goes_wrong_in_the_other_process_is_told_here(asker: Worker) -> None:
    with pytest.raises(RuntimeError, match=r"client\.py: .*Connect"):
        asker.ask(do="last", port=start.free_port(), path="/ok")
    assert client.PICTURES == 16  # and it goes on
    with pytest.raises(RuntimeError, match="Connect"):
        asker.ask(do="vectors", port=start.free_port(), path="/ok", count=2)


@pytest.mark.parametrize("module", [client, rows], ids=lambda module: module.__name__)
def test_the_examples_run(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


# Processes


def test_a_server_ends_with_all_its_processes_and_one_that_fails_says_why(keeper: start.Keeper, tmp_path: Path) -> None:
    with start.started(toy("/ok", "stubborn"), tmp_path, keeper) as server:
        group = server.process.pid
        assert len(start.members(group)) == 2
    assert start.members(group) == [] and not start.answers(server.port, "/")
    with (
        pytest.raises(RuntimeError, match=r"(?s)toy did not start.*the model is not there"),
        start.started(toy("/ok", "failing"), tmp_path, keeper),
    ):
        pass


def test_memory_and_time_are_those_of_the_whole_group_and_a_frozen_one_takes_none(tmp_path: Path, keeper: start.Keeper) -> None:
    held = "import os, time; b = bytearray(os.urandom(1)) * 60_000_000; os.fork(); b[::4096] = b[1::4096]\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", held], start_new_session=True)
    server = start.Server(toy(), process, 0, tmp_path)
    try:
        keeper.watch(process.pid)
        wait_for(lambda: len(start.members(process.pid)) == 2 and server.pss_bytes() > 115e6)  # each wrote its own copy
        assert 115e6 < server.pss_bytes() < 200e6
        before = server.cpu_s()
        wait_for(lambda: server.cpu_s() > before + 0.2)
        server.freeze()
        wait_for(lambda: all(start.stat_fields(pid)[0] == "T" for pid in start.members(process.pid)))
        before = server.cpu_s()
        time.sleep(0.3)
        assert server.cpu_s() == before
        with server.awake():
            wait_for(lambda: server.cpu_s() > before)
    finally:
        server.stop()
    assert server.pss_bytes() == 0 and server.cpu_s() == 0


def test_processor_time_is_that_of_all_threads_and_finer_than_a_tick() -> None:
    before = start.cpu_s(os.getpid()), time.process_time()
    thread = threading.Thread(target=lambda: sum(range(200_000)))
    thread.start()
    thread.join()
    spent = start.cpu_s(os.getpid()) - before[0]
    assert 0 < spent == pytest.approx(time.process_time() - before[1], abs=0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_server_is_left_however_the_benchmark_ends(number: int, tmp_path: Path) -> None:
    script = f"""
import pathlib, signal, sys, time
sys.path[:0] = [{str(FOLDER)!r}, {str(Path(__file__).parent)!r}]
from servers import start
command = (sys.executable, {str(TOY)!r}, "{{port}}", "stubborn")
program = start.Program(name="toy", command=command, path="/ok", ready="/")
with start.started(program, pathlib.Path({str(tmp_path)!r}), start.Keeper()) as server:
    server.freeze()
    print(server.process.pid, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    group = int(process.stdout.readline())
    assert len(start.members(group)) == 2
    os.kill(process.pid, number)
    process.communicate(timeout=20)
    wait_for(lambda: start.members(group) == [])


# Search, rounds, rows


def test_the_search_finds_the_best_cell_of_each_load_and_measures_none_twice() -> None:
    def rates(cell: search.Cell, loads: Sequence[int]) -> dict[int, float]:
        alone = 10 - cell.batch - cell.window_ms / 10 - 2 * cell.workers
        together = 10 + cell.batch - abs(cell.window_ms - 1) / 10 + cell.workers + (cell.transport == "zmq")
        seen.extend((cell, clients) for clients in loads)
        return {clients: {1: alone, 8: together}[clients] for clients in loads}

    seen: list[tuple[search.Cell, int]] = []
    best = search.search(rates, (1, 8), search.Grid())
    assert best.at(1) == search.Cell() and best.at(8) == search.Cell(batch=8, window_ms=1, workers=2, transport="zmq")
    assert len(set(seen)) == len(seen) and len(best.measured) < 20
    assert (search.Cell(batch=8, window_ms=20), 8) in seen and (search.Cell(batch=8, window_ms=20), 1) not in seen
    assert search.Cell(batch=1, window_ms=20) == search.Cell()  # no batch, no window
    assert str(best.at(8)) == "batch 8, window 1 ms, 2 x 1 threads, zmq"
    narrow = serving.narrowed(best, search.Grid())
    assert (narrow.batches, narrow.windows_ms, narrow.workers, narrow.first_window_ms) == ((1, 8), (0, 1), (1, 2), 1)
    assert len(search.search(rates, (1, 8), narrow).measured) < 10


FINALISTS = {"timm": {1: "timm 1", 2: "timm 1", 8: "timm", 32: "timm"}, "given": dict.fromkeys((1, 2, 8, 32), "given")}


def answer(rate: float) -> dict[str, object]:
    return {"rate": rate, "statuses": {"200": 50}, "refused": {"p50_ms": 4.0, "p99_ms": 12.5}, "client_cpu": 0.1}


def played(
    count: int, others: tuple[str, ...] = ("ours onnx", "fastapi")
) -> tuple[list[rounds.Round], list[tuple[str, str, int]]]:
    asked: list[tuple[str, str, int]] = []

    def one(who: str, load: rounds.Load, seed: int) -> dict[str, object]:
        asked.append((who, load.name, seed))
        if load.name == "2.0 x our capacity":
            assert load.rate == 2 * 30.0 * (1 + seed)  # this round's, whoever comes first
        return answer((1 + seed) * (30.0 if who.startswith("ours") else 20.0))

    found, _ = rounds.play(rounds.cases(FINALISTS, 20.0, others), count, one, lambda who: nullcontext(), lambda line: None)
    return found, asked


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PROBE_S", 0.01)


@pytest.mark.usefixtures("no_probe")
def test_each_round_has_every_contender_once_in_an_order_of_its_own() -> None:
    _, asked = played(6)
    orders = [[who for who, _ in itertools.groupby(who for who, _, seed in asked if seed == number)] for number in range(6)]
    assert all(len(order) == len(set(order)) for order in orders) and orders[1] != orders[2]
    assert set(orders[1]) < set(orders[4]) < set(orders[0])
    assert sum(one[:2] == ("ours", "8 clients") for one in asked) == 6
    assert sum(one[:2] == ("fastapi", "8 clients") for one in asked) == 3  # in every other
    assert sum(one[:2] == ("ours", "0.5 x the slowest") for one in asked) == 1


@pytest.mark.usefixtures("no_probe")
def test_every_reach_has_a_line_and_what_was_not_measured_does_not_hold() -> None:
    found, _ = played(10)
    lines = {line["case"]: line for line in rows.served("resnet50", found, FINALISTS, None)}
    assert [case for case, line in lines.items() if line["ratio"] is None] == []
    assert all(
        line["low"] == line["high"] == 1.5 and line["holds"] for case, line in lines.items() if "against LitServe" in case
    )
    assert {line["reach"] for line in lines.values()} == {0.95, 1.25, 1.5, 0.97, 0.9, 1.0}
    without = rows.served("resnet18", found[:4], FINALISTS, "not run: onnxruntime not installed")
    assert [line["holds"] for line in without] == [False] * len(without)  # too few rounds
    (onnx,) = [line for line in without if "onnxruntime" in line["case"]]
    assert onnx["ratio"] is None and "not installed" in onnx["why"]
    assert all(line["ratio"] is None and not line["holds"] for line in rows.served("resnet18", [], FINALISTS, "not run"))


def test_an_interval_is_that_of_the_median_over_rounds() -> None:
    assert rows.interval([2.0] * 10) == (2.0, 2.0, 2.0) and rows.interval([1.0, 3.0]) == (2.0, None, None)
    ratios = list(np.random.default_rng(1).normal(1.0, 0.1, 400))
    middle, low, high = rows.interval(ratios)
    assert low is not None and high is not None and low < middle < high
    wide = 2 * 1.96 * 1.2533 * 0.1 / 400**0.5  # of the median of normal numbers
    assert high - low == pytest.approx(wide, rel=0.3)


def test_a_rival_without_useful_answers_counts_as_ten_and_is_told() -> None:
    found: list[rounds.Round] = [{("a", "x"): answer(5.0), ("b", "x"): answer(rate)} for rate in (0.0, 4.0, 4.0, 4.0, 0.0, 5.0)]
    line = rows.compared("c", found, ("a", "x"), ("b", "x"), 1.0)
    assert line["ratio"] == 1.25 and line["high"] <= 10 and "in 2 of 6 rounds" in line["why"]
    both: list[rounds.Round] = [{("a", "x"): answer(0.0), ("b", "x"): answer(0.0)}] * 6
    assert rows.compared("c", both, ("a", "x"), ("b", "x"), 1.0)["holds"] is False


def test_limits_of_their_own_hold_from_the_worse_end() -> None:
    idle = rows.limited("idle", "cores", [0.0, 0.001, 0.002, 0.004, 0.004, 0.004], 0.01, 0.001)
    assert idle["ratio"] == pytest.approx(0.01 / 0.003, rel=0.35) and idle["holds"]
    assert not rows.limited("idle", "cores", [0.02] * 6, 0.01, 0.001)["holds"]
    light, over = ("ours", "0.8 x our capacity"), ("ours", "2.0 x our capacity")
    good = answer(30.0)
    bad = {**good, "statuses": {"200": 49, "429": 1}}
    soon, kept = rows.refusals([{light: good, over: good}] * 6)
    assert soon["ratio"] == 4.0 and soon["holds"] and kept["holds"]
    assert not rows.refusals([{light: good, over: good}] * 5 + [{light: bad, over: good}])[1]["holds"]
    assert rows.refusals([{light: good}])[0]["why"].startswith("not run")
    ours, other = {"warm": 500 * 2**20, "after": 700 * 2**20}, {"warm": 1000 * 2**20, "after": 900 * 2**20}
    line = rows.memory("m", ours, other)
    assert (line["low"], line["high"], line["holds"]) == (1.286, 2.0, False)
    assert rows.memory("m", ours, {"warm": 2**30, "after": 2**30})["holds"]
    rest = rows.memory("m", {**ours, "rest": 2**28}, {**other, "rest": 2**29}, rows.REST)
    assert rest["ratio"] == 2 and "at rest" in rest["case"] and "at rest" not in line["case"]


def test_lines_are_json_with_the_keys_of_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    line = rows.row("c", "answers/s", 1.0, [2.0] * 6, [1.0] * 6, [2.0] * 6)
    rows.print_lines("resnet18", [line, rows.not_run("d", "answers/s", 1.0, "not run")], "m")
    keys = {"benchmark", "case", "ours", "other", "unit", "ratio", "low", "high", "reach", "holds", "machine"}
    said = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert all(keys <= set(one) for one in said) and [one["holds"] for one in said] == [True, False]
    assert said[0]["case"] == "resnet18, c"


# What it refuses


def test_other_vectors_stop_it_before_anything_is_timed() -> None:
    wanted = np.array([[1.0, -4.0], [2.0, 3.0]])
    assert serving.check_equal("x", wanted, (wanted + 3e-4).tolist()).startswith("yes, within 7.5e-05")
    for other in (wanted + 5e-4, wanted * np.nan, wanted[:1]):
        with pytest.raises(serving.NoComparison, match="nothing is compared"):
            serving.check_equal("x", wanted, other.tolist())


def test_a_server_that_computes_something_else_is_named_and_no_number_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contenders, "missing", lambda: None)
    monkeypatch.setattr(contenders, "no_onnx", lambda: "not run")
    monkeypatch.setattr(contenders, "ours", lambda arch, engine: toy(name="an impostor"))
    monkeypatch.setattr(serving, "SMOKE", replace(bench.SMOKE, pictures=2))
    assert serving.main(smoke=True) == 1
    said = capsys.readouterr()
    assert said.out == "" and "an impostor gives vectors [2, 3], not [2, 512]" in said.err


@pytest.mark.skipif(importlib.util.find_spec("litserve") is not None, reason="LitServe is installed")
def test_without_litserve_it_says_how_to_install_it() -> None:
    done = subprocess.run([sys.executable, FOLDER / "serving.py", "--smoke"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "serving: LitServe 0.2.19 is not installed: pip install -e '.[bench]'\n"
