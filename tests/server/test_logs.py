"""The log: a JSON line for each request with its id and trace, nothing of what was sent, and no request lost to a full disk."""

import base64
import io
import json
import logging
import threading

import pytest
from fastapi.testclient import TestClient

from insloc_server.app import create_app
from insloc_server.logs import Lines, configure

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def log(monkeypatch):
    """`log(form, stream)` configures the process's logs until the test ends; the client's own lines are kept out."""
    for name in ("httpx", "httpx2"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    root, loud = logging.getLogger(), logging.getLogger("insloc_server.requests")
    before = root.handlers[:], root.level, loud.level, logging.getLogger("uvicorn").level
    yield configure
    root.handlers, root.level = before[0], before[1]
    loud.setLevel(before[2])
    logging.getLogger("uvicorn").setLevel(before[3])


@pytest.fixture(scope="module")
def keyed(extractor, make_settings):
    with TestClient(create_app(make_settings(api_keys="ann " + "k" * 20), extractor)) as client:
        client.headers["x-api-key"] = "k" * 20
        yield client


def test_each_request_is_a_line_of_json_with_its_id_and_trace(keyed, png, log):
    stream = io.StringIO()
    log("json", stream)
    sent = {"a": png, "b": b"no image", "c": png}
    for name, data in sent.items():
        headers = {"content-type": "image/png", "x-request-id": name, "traceparent": TRACE if name == "a" else "x\ny"}
        keyed.post("/v1/features?transform=whole:32", content=data, headers=headers)
    keyed.post("/v1/embeddings", json={"input": "data:image/png;base64," + base64.b64encode(png).decode()})
    keyed.get("/readyz")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    answered = [line for line in lines if line["logger"] == "insloc_server.requests"]
    assert [(line["request"], line["code"], line["status"]) for line in answered[:3]] == [
        ("a", "ok", 200),
        ("b", "unsupported_image", 415),
        ("c", "ok", 200),
    ]
    assert answered[0]["traceparent"] == TRACE and "traceparent" not in answered[1]
    assert {line["route"] for line in answered} == {"/v1/features", "/v1/embeddings"}  # who asks for health is not written
    assert all(line["client"] == "ann" and line["seconds"] > 0 and line["level"] == "info" for line in answered)
    assert "k" * 20 not in stream.getvalue() and base64.b64encode(png)[:40].decode() not in stream.getvalue()
    assert len(stream.getvalue()) < 400 * len(lines)


def test_a_failure_is_one_line_with_its_traceback(keyed, png, log, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret\nof two lines")

    monkeypatch.setattr("insloc_server.features.answer_head", fail)
    stream = io.StringIO()
    log("json", stream)
    keyed.post("/v1/features", content=png, headers={"content-type": "image/png", "x-request-id": "d"})
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["request"], first["message"]) == ("error", "d", "request d failed")
    assert "ZeroDivisionError: a secret\nof two lines" in first["exception"]
    assert (second["code"], second["status"]) == ("internal", 500)


def test_people_get_no_line_for_each_request(keyed, png, log):
    stream = io.StringIO()
    log("text", stream)
    keyed.post("/v1/features", content=png, headers={"content-type": "image/png"})
    assert stream.getvalue() == ""


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_log_that_can_t_be_written_costs_lines_and_no_request(keyed, png, log):
    log("json", Full())
    before = Lines.dropped
    for _ in range(3):
        assert keyed.post("/v1/features", content=png, headers={"content-type": "image/png"}).status_code == 200
    assert Lines.dropped == before + 3
    assert f"insloc_log_lines_dropped {float(before + 3)}" in keyed.get("/metrics").text


def test_the_lines_of_requests_at_once_name_their_own(keyed, png, log):
    stream = io.StringIO()
    log("json", stream)
    threads = [
        threading.Thread(
            target=keyed.post,
            args=("/v1/features?transform=whole:32",),
            kwargs={"content": png, "headers": {"content-type": "image/png", "x-request-id": f"id{i}"}},
        )
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {json.loads(line)["request"] for line in stream.getvalue().splitlines()} == {f"id{i}" for i in range(6)}
