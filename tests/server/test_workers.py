"""Several processes at one port: one server to those who ask, and nothing left of it afterwards."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from wire import QUICK, Load, ask, command, connect, head, metric, read, said_since, status, wait_for

from insloc_server.peers import Peers, merged

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def children(pid):
    """The processes that `pid` has started and that run."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if alive(child)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@linux
def test_two_workers_count_as_one_outlive_a_death_and_end_without_losing_a_request(png, tmp_path):
    with command(tmp_path, "--workers", "2", "--drain-delay-s", "0.5") as (process, url):
        first = children(process.pid)
        assert len(first) == 2
        ok = 'insloc_requests_total{code="ok",route="/v1/features"}'
        for _ in range(20):
            assert ask(url, png, QUICK)
        assert {metric(url, ok) for _ in range(6)} == {20.0}  # whichever of the two is asked
        assert (metric(url, "insloc_images_total"), metric(url, "insloc_worker_restarts_total")) == (20, 0)

        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: metric(url, "insloc_worker_restarts_total") == 1, 30)  # the other one answers meanwhile
        wait_for(lambda: len(children(process.pid)) == 2 and status(url, "/readyz") == 200, 10)
        second = children(process.pid)
        assert first[0] not in second and first[1] in second

        load = Load(url, png, 4, keep=False)
        wait_for(lambda: load.answered > 20, 60)
        process.terminate()
        assert process.wait(20) == 0
        for thread in load.threads:
            thread.join(10)
        assert (load.lost, load.statuses) == ([], {200})
        assert not any(map(alive, second))
        assert len(said_since(tmp_path)) == 1  # the one that died


@linux
def test_a_killed_keeper_leaves_no_orphan(tmp_path):
    with command(tmp_path, "--workers", "2") as (process, url):
        workers = children(process.pid)
        with connect(url) as connection:  # one in use does not hold its worker
            connection.sendall(head("GET", "/livez"))
            assert read(connection)[0] == 200
            process.kill()
            process.wait(10)
            start = time.monotonic()
            wait_for(lambda: not any(map(alive, workers)), 10)
        assert time.monotonic() - start < 2


def test_counters_are_added_and_ages_are_not():
    one = """# TYPE insloc_requests_total counter
insloc_requests_total{code="ok",route="a"} 3
# TYPE insloc_seconds histogram
insloc_seconds_bucket{le="1.0"} 1
insloc_seconds_bucket{le="+Inf"} 2
insloc_seconds_sum 5
insloc_seconds_count 2
# TYPE insloc_queue_oldest_seconds gauge
insloc_queue_oldest_seconds 4
# TYPE insloc_model_info gauge
insloc_model_info{model="m"} 1
# TYPE process_start_time_seconds gauge
process_start_time_seconds 100
"""
    two = one.replace('route="a"} 3', 'route="b"} 4').replace("oldest_seconds 4", "oldest_seconds 1").replace(" 100", " 90")
    families = text_string_to_metric_families(merged([one, two, one]).decode())
    found = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    assert found == {
        ("insloc_requests_total", "ok", "a"): 6,
        ("insloc_requests_total", "ok", "b"): 4,
        ("insloc_seconds_bucket", "1.0"): 3,
        ("insloc_seconds_bucket", "+Inf"): 6,
        ("insloc_seconds_sum",): 15,
        ("insloc_seconds_count",): 6,
        ("insloc_queue_oldest_seconds",): 4,
        ("insloc_model_info", "m"): 1,
        ("process_start_time_seconds",): 90,
    }


def test_only_a_peer_of_this_start_gets_one_process_s_counters():
    peers = Peers(ports=(1, 2), own=0)
    scope = {"path": "/metrics", "headers": [(b"x-insloc-peer", peers.secret.encode())]}
    assert peers.asks(scope) and not peers.asks({**scope, "path": "/v1/models"})
    assert not peers.asks({**scope, "headers": []}) and not Peers(ports=(1, 2), own=0).asks(scope)
    assert peers.secret not in repr(peers)
