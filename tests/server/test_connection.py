"""Clients that send slowly, too much or nothing, and those that don't read: each is let go, and harms nobody else."""

import gc
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from wire import ask, connect, head, metric, read, send, wait_for

from insloc_server import connection as module
from insloc_server.serve import running


@pytest.fixture(scope="module")
def url(extractor, make_settings):
    settings = make_settings(header_timeout_s=0.5, body_timeout_s=3, max_body_bytes=100_000, max_connections=40)
    with running(settings, extractor) as url:
        yield url


def closed(connection):
    """Seconds until the server ends the connection, and what it says before."""
    start = time.monotonic()
    data = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return time.monotonic() - start, data
        data += piece


def test_a_connection_that_says_nothing_is_closed(url):
    with connect(url) as connection:
        seconds, data = closed(connection)
    assert 0.4 < seconds < 2 and data == b""


def trickle(connection, data, gap=0.1):
    """Send bytes one by one until the server has had enough: the answer."""
    connection.settimeout(gap)
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            got = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        connection.settimeout(5)
        return got + closed(connection)[1]
    raise AssertionError("the server has heard it all")


@pytest.mark.parametrize(
    "data", [b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 200, b"\r\n" * 50], ids=["head", "lines"]
)
def test_a_head_that_comes_byte_by_byte_is_given_up(url, data):
    before = metric(url, 'insloc_requests_total{code="receive_timeout",route="other"}') or 0
    with connect(url) as connection:
        start = time.monotonic()
        answer = trickle(connection, data)
        assert 0.4 < time.monotonic() - start < 2
    if data.startswith(b"GET"):
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n") and b'"code": "receive_timeout"' in answer
        assert metric(url, 'insloc_requests_total{code="receive_timeout",route="other"}') == before + 1


def test_the_clock_of_a_head_begins_anew_with_each_request_and_not_with_each_byte(url):
    with connect(url) as connection:
        for _ in range(3):
            connection.sendall(head("GET", "/livez"))
            assert read(connection)[0] == 200
            time.sleep(0.3)  # three times 0.3 s are more than the 0.5 s of one head
        time.sleep(0.5)  # between requests the connection may rest
        connection.sendall(head("GET", "/livez"))
        assert read(connection)[0] == 200
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        seconds, data = closed(connection)
    assert 0.4 < seconds < 2 and b"408" in data


def test_a_body_slower_than_the_rate_is_given_up_before_its_time(extractor, make_settings, monkeypatch, png):
    monkeypatch.setattr("insloc_server.limits.GRACE_S", 0.3)
    with running(make_settings(body_timeout_s=20, min_body_rate=20_000), extractor) as url:
        with connect(url) as connection:
            connection.sendall(head(content_type="image/png", content_length=len(png)))
            start = time.monotonic()
            answer = trickle(connection, png)
            assert 0.2 < time.monotonic() - start < 3
        assert answer.startswith(b"HTTP/1.1 408 ") and b"20,000 bytes a second" in answer
        with connect(url) as connection:  # the same in three pieces, over a longer time, but fast enough
            connection.sendall(head(content_type="image/png", content_length=len(png)))
            for start_at in range(0, len(png), -(-len(png) // 3)):
                connection.sendall(png[start_at : start_at - (-len(png) // 3)])
                time.sleep(0.2)
            assert read(connection)[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        head("GET", "/livez", x_long="a" * 200_000),
        head("GET", "/livez?" + "a" * 17_000),
        b"GET /livez HTTP/1.1\r\nX-Long: " + b"a" * 200_000,  # and no end
        b"GET /" + b"a" * 200_000,
        head("GET", "/livez", **{f"x_{i}": "a" for i in range(64)}),
        head("POST", "/v1/features", x_long="a" * 17_000, content_length=50_000) + bytes(50_000),
    ],
    ids=["field", "query", "endless field", "endless path", "fields", "with a body"],
)
def test_a_head_over_its_limits_is_refused_and_the_connection_closed(url, data):
    status, headers, body = send(url, data)
    assert (status, json.loads(body)["code"], headers["connection"]) == (431, "headers_too_large", "close")


def test_a_head_within_its_limits_passes(url):
    fields = {f"x_{i}": "a" * 150 for i in range(60)}
    assert send(url, head("GET", "/livez", **fields))[0] == 200
    assert send(url, head("GET", "/livez?" + "a" * 15_000))[0] == 200


def test_a_large_body_does_not_count_as_head(url, png):
    """The next request's head comes in one packet with the end of a body that is larger than a head may be."""
    whole = head(content_type="image/png", content_length=90_000) + png + bytes(90_000 - len(png))
    with connect(url) as connection:
        connection.sendall(whole + whole[:100])
        assert read(connection)[0] == 200
        connection.sendall(whole[100:])
        assert read(connection)[0] == 200


def test_pipelined_requests_are_answered_in_their_order(url, png):
    with connect(url) as connection:
        one = head(content_type="image/png", content_length=len(png)) + png
        connection.sendall(one + head("GET", "/livez") + one + head("GET", "/nowhere") + one)
        statuses = [read(connection)[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 404, 200]


def test_a_bad_second_head_does_not_take_the_first_request_s_answer(gated, make_settings, png):
    extractor, gate = gated
    with running(make_settings(header_timeout_s=0.3), extractor) as url, connect(url, 30) as connection:
        gate.shut()
        connection.sendall(head(content_type="image/png", content_length=len(png)) + png + b"GET /livez HTTP/1.1\r\n")
        assert gate.reached.wait(30)
        time.sleep(0.5)
        gate.open.set()
        assert read(connection)[0] == 200
        assert closed(connection)[1] == b""


def test_what_is_no_http_gets_a_problem(url):
    status, headers, body = send(url, b"\x16\x03\x01\x02\x00 is TLS\r\n\r\n")
    assert (status, headers["content-type"], json.loads(body)["code"]) == (400, "application/problem+json", "http_error")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_all_before_it_reads_still_gets_the_refusal(url, chunked):
    """300 MiB, none of which is kept: without the lingering end the answer is lost to a reset."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    block = bytes(1024 * 1024)
    length = {} if chunked else {"content-length": str(300 * len(block))}
    connection.request(
        "POST", "/v1/features", iter([block] * 300), {"content-type": "image/png", **length}, encode_chunked=chunked
    )
    response = connection.getresponse()
    assert (response.status, json.load(response)["code"]) == (413, "body_too_large")
    connection.close()


def test_a_refused_request_s_body_can_t_be_trickled_in_for_ever(url, monkeypatch):
    monkeypatch.setattr(module, "LINGER_S", 0.5)
    with connect(url) as connection:
        connection.sendall(head("POST", "/nowhere", content_length=1000))
        status, headers, _ = read(connection)
        assert (status, headers["connection"]) == (404, "close")
        start = time.monotonic()
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() - start < 3


def test_a_client_that_does_not_read_its_answer_is_cut_off(extractor, make_settings, png, monkeypatch):
    monkeypatch.setattr(module, "UNREAD_S", 0.3)
    with running(make_settings(), extractor) as url:
        path = "/v1/features?outputs=map&stride=2&transform=whole:448&encoding=base64"
        with connect(url) as connection:
            connection.sendall(head("POST", path, content_type="image/png", content_length=len(png)) + png)
            wait_for(lambda: metric(url, 'insloc_requests_total{code="ok",route="/v1/features"}') == 1)
            time.sleep(1.2)
            _, data = closed(connection)
        assert len(data) < 20_000_000  # what the two kernels hold, of 64 x 224 x 299 numbers
        assert len(ask(url, png, path)["images"][0]["map"]["data"]) > 20_000_000


def test_no_answer_waits_for_the_client_to_say_that_it_has_the_head(url):
    with connect(url) as connection:
        connection.sendall(head("GET", "/livez"))
        assert read(connection)[0] == 200
        there = [one.transport.get_extra_info("socket") for one in gc.get_objects() if type(one) is module.Connection]
        options = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in there if one.fileno() >= 0]
    assert options and all(options)


def test_connections_beyond_the_limit_are_refused_but_for_health(url, png):
    held = [connect(url) for _ in range(40)]
    try:
        for connection in held:  # a request each, so that none is closed for saying nothing
            connection.sendall(head("GET", "/livez"))
            assert read(connection)[0] == 200
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(url, png)
        assert (caught.value.code, json.load(caught.value)["code"]) == (503, "too_many_connections")
        assert caught.value.headers["retry-after"] == "1"
        assert urllib.request.urlopen(f"{url}/readyz").status == 200
        more = []
        for _ in range(40):  # heard, if only for health
            more.append(connect(url))
            more[-1].sendall(head("GET", "/livez"))
            assert read(more[-1])[0] == 200
        unheard = connect(url)  # beyond twice the limit nobody is
        assert closed(unheard)[1] == b""
        unheard.close()
        for one in more:
            one.close()
    finally:
        for connection in held:
            connection.close()
    wait_for(lambda: send(url, head(content_type="image/png", content_length=len(png)) + png)[0] == 200)


def test_slow_clients_do_not_slow_down_others(url, png):
    ask(url, png)
    stop = threading.Event()

    def drip():
        while not stop.is_set():
            with connect(url) as connection:
                try:
                    trickle(connection, b"GET / HTTP/1.1\r\nX: " + b"a" * 20)
                except AssertionError:
                    continue

    threads = [threading.Thread(target=drip) for _ in range(20)]
    for thread in threads:
        thread.start()
    try:
        assert [len(ask(url, png)["images"]) for _ in range(5)] == [1] * 5
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
