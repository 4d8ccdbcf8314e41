"""Images inside JSON: base64 and data URIs are read, URLs never fetched, and no body fills the memory."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from insloc_server.inline import MOST_VALUES, check_values, image_bytes
from insloc_server.problems import Refusal


def text(data):
    return base64.b64encode(data).decode()


def post(client, body, path="/v1/features", **headers):
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return client.post(path, content=content, headers={"content-type": "application/json", **headers})


@pytest.mark.parametrize("before", ["", "data:image/png;base64,", "DATA:;base64,", "data:image/jpeg;name=a.jpg;base64,"])
def test_an_image_in_json_gives_what_it_gives_as_a_body(client, png, post_raw, before):
    boxes = [[10, 12, 60.5, 48], [-5, 0, 32, 32]]
    ask = {"outputs": ["pooled", "regions"], "boxes": [boxes], "stride": 8, "transform": "whole:64", "encoding": "base64"}
    response = post(client, {"images": [before + text(png)], **ask})
    wanted = post_raw(client, png, boxes=boxes, outputs="pooled,regions", stride=8, transform="whole:64", encoding="base64")
    assert response.status_code == 200 and response.json() == wanted.json()


def test_several_images_keep_their_order(client, picture, packed, png, post_raw):
    other = packed(picture.rotate(180))
    got = post(client, {"images": [text(other), text(png)]}).json()["images"]
    assert [one["pooled"] for one in got] == [post_raw(client, data).json()["images"][0]["pooled"] for data in (other, png)]


@pytest.fixture
def elsewhere():
    """A web server that remembers whether it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a.png", asked
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_url_is_refused_and_not_fetched(client, elsewhere, png):
    url, asked = elsewhere
    for one in (url, url.upper(), "file:///etc/passwd", "ftp://a/b", "gopher:x", "data:image/png,%89PNG", "s3://a/b"):
        for path, body in (("/v1/features", {"images": [text(png), one]}), ("/v1/embeddings", {"input": [text(png), one]})):
            response = post(client, body, path)
            assert (response.status_code, response.json()["code"], response.json()["index"]) == (422, "bad_request", 1)
            assert ("never fetched" in response.text) == (one[:5] != "data:")
    assert asked == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b"{", 400, "bad_json"),
        (b"\xff", 400, "bad_json"),
        (b"[" * 100_000, 400, "bad_json"),
        (b'{"images": [' + b"[]," * (MOST_VALUES + 1) + b"[]]}", 400, "bad_json"),
        ({}, 422, "bad_request"),
        ([], 422, "bad_request"),
        ("null", 422, "bad_request"),
        ({"images": []}, 422, "bad_request"),
        ({"images": "aaaa"}, 422, "bad_request"),
        ({"images": [1]}, 422, "bad_request"),
        ({"images": [None]}, 422, "bad_request"),
        ({"images": ["\u00e9"]}, 422, "bad_request"),
        ({"images": ["a"]}, 422, "bad_request"),
        ({"images": ["iVBOR w0KGgo="]}, 422, "bad_request"),
        ({"images": [""]}, 422, "empty_image"),
        ({"images": ["aaaa"]}, 415, "unsupported_image"),
        ({"images": ["aaaa"] * 33}, 422, "bad_request"),
        ({"images": ["aaaa"], "image": "aaaa"}, 422, "bad_request"),
        ({"images": ["aaaa"], "boxes": [[], []]}, 422, "bad_request"),
    ],
)
def test_another_body_is_refused(client, body, status, code):
    response = post(client, body)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def test_options_beside_json_belong_in_it(client, png):
    response = post(client, {"images": [text(png)]}, "/v1/features?stride=8")
    assert (response.status_code, response.json()["code"]) == (422, "bad_request") and "`images`" in response.text


def test_a_body_of_many_small_values_is_refused_before_it_is_read():
    body = b"[" + b"[]," * 5_000_000 + b"[]]"  # 15 MB that would take 400 MB
    start = time.monotonic()
    with pytest.raises(Refusal):
        check_values(body)
    assert time.monotonic() - start < 1
    check_values(b'{"images": ["' + b"a" * 1_000_000 + b'"]}')


def test_an_image_is_read_to_its_last_byte():
    data = bytes(range(256)) * 3
    assert image_bytes([text(data), f"data:;base64,{text(data[:-1])}", text(b"")], 3) == [data, data[:-1], b""]


def test_the_body_s_bytes_are_given_back(client, png):
    post(client, {"images": [text(png)]})
    post(client, {"images": ["https://example.org/a.png"]})
    assert client.app.state.budget.held == 0
