"""The end of a server: said early, nothing that was let in is lost, nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from wire import Load, command, connect, head, read, said_since, status, upload, wait_for


def check_idle(pid):
    """A server that is not asked takes less than 1 % of a core."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return

    def spent():
        user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    time.sleep(0.5)
    before = spent()
    time.sleep(4)
    assert spent() - before <= 0.04


def test_a_server_that_is_told_to_end_says_so_and_loses_no_request(png, tmp_path):
    """Eight clients under way, half of them with a connection for each request, and an upload that is half here."""
    with command(tmp_path, "--drain-delay-s", "1.5") as (process, url):
        check_idle(process.pid)
        loads = [Load(url, png, 4, keep) for keep in (False, True)]
        wait_for(lambda: min(load.answered for load in loads) > 10, 60)
        begun = upload(url, png)
        start = time.monotonic()
        process.terminate()
        wait_for(lambda: status(url, "/readyz") == 503, 1)
        assert (status(url, "/v2/health/ready"), status(url, "/livez"), status(url, "/startupz")) == (503, 200, 200)
        with connect(url) as connection:
            connection.sendall(head("GET", "/livez"))
            assert read(connection)[1]["connection"] == "close"  # whoever keeps connections is sent away in time
        wait_for(lambda: status(url, "/livez") == 0)
        assert time.monotonic() - start > 1.5
        begun.send(png[-10:])
        response = begun.getresponse()
        assert response.status == 200 and len(json.load(response)["images"][0]["pooled"]) == 512
        begun.close()
        assert process.wait(15) == 0
        for thread in [thread for load in loads for thread in load.threads]:
            thread.join(10)
        assert said_since(tmp_path) == []
    for load in loads:
        assert (load.lost, load.statuses) == ([], {200})


def test_a_second_signal_ends_at_once(png, tmp_path):
    with command(tmp_path) as (process, url):
        connection = upload(url, png)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None  # the request in work has 25 s
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - start < 1
        connection.close()


def test_a_signal_while_the_model_loads_ends_with_zero_at_once(tmp_path):
    command = [sys.executable, "-m", "insloc_server.cli", "--model", "random:resnet18", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert "loading random:resnet18" in process.stderr.readline()
        process.terminate()
        assert process.wait(10) == 0
        assert process.stderr.read() == ""
