"""Hours and rushes: flat memory, nothing accepted lost, every request reconciled with its line in the log."""

import io
import json
import logging
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from wire import QUICK, Load, command, connect, head, metric, read, status

from insloc_server.logs import configure
from insloc_server.serve import running

SOAK_S = float(os.environ.get("INSLOC_TEST_SOAK_S", "600"))
RUSH_S = float(os.environ.get("INSLOC_TEST_RUSH_S", "60"))
MOST_GROWTH = 48 * 1024 * 1024

linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(url, pid, png, seconds):
    """Growth of a server's memory under steady use, good and bad, from a fifth of the time on."""
    loads = [Load(url, png, 2, keep=True), Load(url, png[:-300], 1, keep=False)]
    time.sleep(max(2.0, seconds / 5))
    early, asked = resident(pid), loads[0].answered
    time.sleep(seconds)
    growth = resident(pid) - early
    assert loads[0].answered > asked and metric(url, "insloc_queue_images") <= 3
    for load in loads:
        load.stop.set()
        for thread in load.threads:
            thread.join(30)
    assert [load.lost for load in loads] == [[], []] and [load.statuses for load in loads] == [{200}, {422}]
    return growth


@linux
def test_a_few_seconds_of_steady_use_leave_memory_flat(extractor, make_settings, png):
    with running(make_settings(), extractor) as url:
        assert soak(url, os.getpid(), png, 3) < MOST_GROWTH


@linux
@pytest.mark.slow
def test_ten_minutes_of_steady_use_leave_memory_flat(tmp_path, png):
    with command(tmp_path, "--drain-delay-s", "0") as (process, url):
        growth = soak(url, process.pid, png, SOAK_S)
        process.terminate()
        assert process.wait(20) == 0
    assert growth < MOST_GROWTH


@pytest.fixture
def lines():
    """The process's log as JSON lines, until the test ends."""
    root, loud = logging.getLogger(), logging.getLogger("insloc_server.requests")
    before = root.handlers[:], root.level, loud.level, logging.getLogger("uvicorn").level
    stream = io.StringIO()
    configure("json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before[0], before[1]
    loud.setLevel(before[2])
    logging.getLogger("uvicorn").setLevel(before[3])


def rush(url, png, seconds):
    """Twice what the server can do, sent by plan and not by its answers: the status of each request, the lost, the rest."""
    warm = Load(url, png, 4, keep=True)
    time.sleep(1)
    before = warm.answered
    time.sleep(2)
    rate = min(200.0, max(10.0, warm.answered - before))  # answers of two seconds, to be asked in one
    warm.stop.set()
    for thread in warm.threads:
        thread.join(30)
    got, lost, lock = {}, [], threading.Lock()

    def one(name):
        fields = {"x_request_id": name, "x_deadline_ms": 1000, "content_type": "image/png", "content_length": len(png)}
        try:
            with connect(url, 30) as connection:
                connection.sendall(head("POST", QUICK, **fields) + png)
                answered, headers, _ = read(connection)
            assert answered != 429 or int(headers["retry-after"]) >= 1
            with lock:
                got[name] = answered
        except Exception as error:
            with lock:
                lost.append(repr(error))

    threads = [threading.Thread(target=one, args=(f"r{i}",)) for i in range(int(rate * seconds))]
    start = time.monotonic()
    for i, thread in enumerate(threads):
        time.sleep(max(0.0, start + i / rate - time.monotonic()))
        thread.start()
    for thread in threads:
        thread.join(60 + seconds)
    start = time.monotonic()
    one("after")
    assert got["after"] == 200 and time.monotonic() - start < 2 and status(url, "/readyz") == 200
    return got, lost


def check_rush(url, png, seconds, lines):
    got, lost = rush(url, png, seconds)
    assert lost == [] and Counter(got.values())[200] > len(got) / 5
    logged = {}
    for line in lines():
        if line["logger"] == "insloc_server.requests":
            logged.setdefault(line["request"], []).append(line["code"])
    codes = {200: "ok", 429: "overloaded", 504: "deadline_exceeded"}
    assert {name: [codes.get(answered)] for name, answered in got.items()} == {name: logged.get(name) for name in got}


def test_a_short_rush_loses_nothing_and_the_log_accounts_for_all(extractor, make_settings, png, lines):
    with running(make_settings(queue_images=16), extractor) as url:
        check_rush(url, png, 2, lines)


@pytest.mark.slow
def test_a_minute_of_twice_the_capacity_loses_nothing_and_the_log_accounts_for_all(extractor, make_settings, png, lines):
    with running(make_settings(queue_images=16), extractor) as url:
        check_rush(url, png, RUSH_S, lines)
