"""A real server: over sockets, with clients that misbehave, and gone without a trace afterwards."""

import json
import socket
import threading
import time
import urllib.request
from urllib.parse import urlsplit

import pytest
from wire import ask, connect, head, metric, send, upload, wait_for

from insloc_hub.errors import InslocError
from insloc_server.process import listening
from insloc_server.serve import running


@pytest.fixture
def url(extractor, make_settings):
    with running(make_settings(max_body_bytes=200_000, body_timeout_s=0.6), extractor) as url:
        yield url


def test_a_server_in_this_process_answers_and_leaves_nothing(extractor, make_settings, png):
    before = set(threading.enumerate())
    with running(make_settings(), extractor) as url:
        place = urlsplit(url)
        with urllib.request.urlopen(f"{url}/readyz") as response:
            assert response.status == 200
        wanted = extractor([png]).pooled[0]
        got = ask(url, png)["images"][0]["pooled"]
        assert max(abs(a - float(b)) for a, b in zip(got, wanted, strict=True)) < 1e-5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place.hostname, place.port), timeout=5)
    assert set(threading.enumerate()) == before


def test_a_server_is_gone_also_when_the_block_fails(extractor, make_settings):
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), running(make_settings(), extractor) as url:
        raise ZeroDivisionError
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{url}/livez", timeout=5)
    assert set(threading.enumerate()) == before


def test_a_model_that_can_t_run_is_an_error_at_the_start(make_settings):
    from insloc_hub import load

    def fail(*_: object) -> None:
        raise RuntimeError("no kernel")

    extractor = load("random:resnet18@1", "cpu")
    extractor.model.layer4.register_forward_pre_hook(fail)
    before = set(threading.enumerate())
    with pytest.raises(InslocError, match="does not run"), running(make_settings(), extractor):
        pass
    assert set(threading.enumerate()) == before


def test_a_taken_port_is_an_error_that_says_so(extractor, make_settings, url):
    port = urlsplit(url).port
    with pytest.raises(InslocError, match=f"port {port}: another program has it"), running(make_settings(port=port), extractor):
        pass
    assert urllib.request.urlopen(f"{url}/livez").status == 200


def test_an_address_that_is_not_ours_is_an_error(make_settings):
    settings = make_settings(host="192.0.2.1", allow_remote=True)  # for documentation only: nobody has it
    with pytest.raises(InslocError, match=r"can't listen on 192\.0\.2\.1"), listening(settings):
        pass


def test_a_length_over_the_limit_is_refused_before_anything_is_sent(url):
    start = time.monotonic()
    status, headers, body = send(url, head(content_type="image/png", content_length=300_000_000))
    assert (status, json.loads(body)["code"], headers["connection"]) == (413, "body_too_large", "close")
    assert time.monotonic() - start < 0.5


def test_a_chunked_body_is_refused_once_it_has_passed_the_limit(url, png):
    begin = head(content_type="image/png", transfer_encoding="chunked")
    chunk = b"%x\r\n" % 50_000 + bytes(50_000) + b"\r\n"
    status, _, body = send(url, begin + 5 * chunk)  # and no end
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")
    whole = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in (png[:999], png[999:])) + b"0\r\n\r\n"
    assert send(url, begin + whole)[0] == 200


def test_a_body_that_does_not_come_is_given_up(url, png):
    start = time.monotonic()
    status, headers, body = send(url, head(content_type="image/png", content_length=len(png)) + png[:1000])
    assert (status, json.loads(body)["code"], headers["connection"]) == (408, "receive_timeout", "close")
    assert 0.5 < time.monotonic() - start < 5


def test_a_client_that_goes_away_is_not_computed_for(gated, make_settings, png):
    extractor, gate = gated
    with running(make_settings(), extractor) as url:
        gate.shut()
        first = threading.Thread(target=ask, args=(url, png))
        first.start()
        assert gate.reached.wait(30)
        before = gate.forwards
        with connect(url) as connection:
            connection.sendall(head(content_type="image/png", content_length=len(png)) + png)
            wait_for(lambda: metric(url, "insloc_queue_images") == 2)
        wait_for(lambda: metric(url, 'insloc_requests_total{code="cancelled",route="/v1/features"}') == 1)
        gate.open.set()
        first.join(30)
        assert urllib.request.urlopen(f"{url}/readyz").status == 200
        assert (gate.forwards, metric(url, "insloc_queue_images")) == (before, 0)


def test_requests_in_parallel_get_their_own_answers(url, extractor, picture, packed):
    files = [packed(picture.rotate(20 * i)) for i in range(6)]
    wanted = extractor(files).pooled
    got = [None] * 6

    def one(i):
        got[i] = ask(url, files[i])["images"][0]["pooled"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i in range(6):
        assert max(abs(a - float(b)) for a, b in zip(got[i], wanted[i], strict=True)) < 1e-5


def test_what_does_not_finish_in_time_is_told_that_the_server_stops(extractor, make_settings, png):
    before = set(threading.enumerate())
    with running(make_settings(drain_timeout_s=1), extractor) as url:
        connection = upload(url, png)
        start = time.monotonic()
    assert 0.9 < time.monotonic() - start < 8
    response = connection.getresponse()
    assert (response.status, json.load(response)["code"]) == (503, "not_ready")
    connection.close()
    assert set(threading.enumerate()) == before
