"""Hours and rushes: flat memory, nothing accepted lost, every request reconciled with its line in the log."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from open_loop import send_by_plan
from wire import QUICK, Load, ask, command, metric, said_since, status

from insloc_server.serve import running

SOAK_S = float(os.environ.get("INSLOC_TEST_SOAK_S", "600"))
RUSH_S = float(os.environ.get("INSLOC_TEST_RUSH_S", "60"))
COSTLY = "/v1/features?transform=whole:224"  # the model, and not the client, is what is short
DEADLINE_MS = 1000
CODES = {200: "ok", 429: "overloaded", 504: "deadline_exceeded"}
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


def rush(url, png, seconds):
    """Twice what the server can do, sent by plan and not by its answers; then one more, as soon as the last one has ended."""
    warm = Load(url, png, 12, keep=True, path=COSTLY)  # more than a batch: the server always has work
    time.sleep(2)
    before = warm.answered
    time.sleep(3)
    rate = 2 * (warm.answered - before) / 3
    warm.stop.set()
    for thread in warm.threads:
        thread.join(30)
    sent = send_by_plan(url + COSTLY, png, [n / rate for n in range(int(rate * seconds))], x_deadline_ms=DEADLINE_MS)
    start = time.monotonic()
    assert ask(url, png, QUICK, **{"x-request-id": "after"})
    assert time.monotonic() - start < 2 and status(url, "/readyz") == 200
    return sent


def check_rush(folder, png, seconds):
    """Nothing is lost, what is accepted is in time, what is refused says when to come again; the log has a line for each."""
    with command(folder, "--drain-delay-s", "0", "--log-format", "json", "--queue-images", "16") as (process, url):
        sent = rush(url, png, seconds)
        process.terminate()
        assert process.wait(20) == 0
    assert sent.lost == []
    got = Counter(sent.statuses.values())
    assert set(got) <= set(CODES) and got[200] > len(sent.statuses) / 5 and got[429] > len(sent.statuses) / 10
    in_time = sorted(sent.seconds[name] for name, answered in sent.statuses.items() if answered == 200)
    assert in_time[int(0.99 * len(in_time))] < DEADLINE_MS / 1000 + 0.5
    assert {name for name, answered in sent.statuses.items() if answered == 429} == set(sent.retry_after)
    assert min(sent.retry_after.values()) >= 1
    logged = {}
    for line in map(json.loads, said_since(folder)):
        if line["logger"] == "insloc_server.requests" and line["request"].startswith("r"):
            logged.setdefault(line["request"], []).append(line["code"])
    assert {name: [CODES[answered]] for name, answered in sent.statuses.items()} == logged


def test_a_short_rush_loses_nothing_and_the_log_accounts_for_all(tmp_path, png):
    check_rush(tmp_path, png, 3)


@pytest.mark.slow
def test_a_minute_of_twice_the_capacity_loses_nothing_and_the_log_accounts_for_all(tmp_path, png):
    check_rush(tmp_path, png, RUSH_S)
