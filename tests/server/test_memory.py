"""Memory that nobody uses goes back to the system, once each time the server comes to rest."""

import sys
import time
from pathlib import Path

import pytest
import torch
from wire import ask, wait_for

from insloc_server import drain
from insloc_server.memory import REST_S, give_back
from insloc_server.serve import running

MIB = 1024 * 1024
glibc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@glibc
def test_what_was_freed_below_something_that_lives_is_given_back():
    many = [torch.zeros(16 * 1024) for _ in range(4000)]  # 250 MiB, each too small for pages of its own
    last = many[-1]
    del many
    before = resident()
    assert give_back()
    assert before - resident() > 150 * MIB
    assert last.sum() == 0


def test_a_server_gives_back_after_loading_and_after_each_rush(monkeypatch, extractor, make_settings, png):
    given = []
    monkeypatch.setattr(drain, "give_back", lambda: given.append(time.monotonic()))
    with running(make_settings(), extractor) as url:
        for times in (1, 2):
            wait_for(lambda times=times: len(given) >= times, 20 * REST_S)
            time.sleep(1.5 * REST_S)
            assert len(given) == times  # once, however long the rest
            assert ask(url, png)["images"]
