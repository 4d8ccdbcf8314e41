"""What a request holds is given back, and nobody waits longer than he said."""

import threading
import time

import pytest
from fastapi.testclient import TestClient

from insloc_server.app import create_app

KIND = {"content-type": "image/png"}


@pytest.fixture
def slow(gated, make_settings):
    """A client of a server whose forward waits at a gate, and the gate."""
    extractor, gate = gated
    with TestClient(create_app(make_settings(max_deadline_s=0.8), extractor)) as client:
        gate.shut()
        yield client, gate
        gate.open.set()


def test_an_answer_later_than_its_deadline_is_given_up(slow, png):
    client, gate = slow
    for milliseconds, seconds in [("300", 0.3), ("99999", 0.8)]:  # the server's own limit holds, too
        start = time.monotonic()
        response = client.post("/v1/features", content=png, headers={**KIND, "x-deadline-ms": milliseconds})
        assert seconds <= time.monotonic() - start < seconds + 1
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    gate.open.set()
    assert client.post("/v1/features", content=png, headers={**KIND, "x-deadline-ms": "800"}).status_code == 200
    assert client.app.state.budget.held == 0


def test_what_waits_beyond_its_deadline_is_never_computed(slow, png):
    client, gate = slow
    first = threading.Thread(target=client.post, args=("/v1/features",), kwargs={"content": png, "headers": KIND})
    first.start()
    assert gate.reached.wait(30)
    before = gate.forwards
    late = [client.post("/v1/features", content=png, headers={**KIND, "x-deadline-ms": "50"}).status_code for _ in range(3)]
    assert late[0] == 504 and set(late) <= {504, 429}  # after the first, the others may be refused at once
    gate.open.set()
    first.join(30)
    assert client.get("/readyz").status_code == 200 and gate.forwards == before


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "x", "", "9" * 13, "\u0663".encode()])
def test_a_deadline_is_a_whole_number_of_milliseconds(client, png, text):
    response = client.post("/v1/features", content=png, headers={**KIND, "x-deadline-ms": text})
    assert (response.status_code, response.json()["code"]) == (422, "bad_request") and "X-Deadline-Ms" in response.text
