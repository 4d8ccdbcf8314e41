"""The client, waiting and async, against a running server, and against one that plays a script."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest

from insloc_hub.errors import BadData, InslocError
from insloc_server import answers
from insloc_server.client import SAFETENSORS, AsyncClient, Client, NoAnswer, Question, RefusedByServer, Reply, scaled_boxes
from insloc_server.serve import running

BOXES = [[10, 12, 60, 48], [-5, 0, 32, 32]]
KEY = "a-key-of-the-tests-0123456789"


def ask_and_wait(url: str, *asked: Any, key: str | None = None, timeout_s: float = 10, **options: Any) -> Reply:
    with Client(url, key, timeout_s) as server:
        return server.features(*asked, **options)


def ask_async(url: str, *asked: Any, key: str | None = None, timeout_s: float = 10, **options: Any) -> Reply:
    async def call() -> Reply:
        async with AsyncClient(url, key, timeout_s) as server:
            return await server.features(*asked, **options)

    return asyncio.run(call())


@pytest.fixture(params=[ask_and_wait, ask_async], ids=["Client", "AsyncClient"])
def ask(request):
    return request.param


@pytest.fixture(scope="module")
def url(extractor, make_settings):
    with running(make_settings(), extractor) as url:
        yield url


@pytest.fixture(scope="module")
def good(url, png) -> bytes:
    """The body of an answer to one image."""
    response = httpx.post(f"{url}/v1/features", content=png, headers={"content-type": "image/png", "accept": SAFETENSORS})
    return response.content


class Script(BaseHTTPRequestHandler):
    """Answers by the list `script` of its server: (status, headers, body); its requests' headers are kept, with the time."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((time.monotonic(), self.headers))
        status, headers, body = self.server.script[min(len(self.server.seen), len(self.server.script)) - 1]
        self.server.gone.wait(30 if status == 0 else 0)
        self.send_response(status or 200)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def playing(*script: tuple[int, dict[str, str], bytes]) -> Iterator[tuple[str, list[Any]]]:
    """A server's URL, and what it was asked. The last answer is repeated; status 0 comes after everybody has gone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.script, server.seen, server.gone = script, [], threading.Event()
    server.handle_error = lambda *_: None  # a client that went away
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.seen
    finally:
        server.gone.set()
        server.shutdown()
        server.server_close()
        thread.join()


def refusal(status: int, after: str | None = None) -> tuple[int, dict[str, str], bytes]:
    headers = {"content-type": "application/problem+json"} | ({} if after is None else {"retry-after": after})
    return status, headers, b'{"code": "overloaded", "detail": "try again", "status": 429, "instance": "abc"}'


def test_an_image_gives_the_librarys_numbers(ask, url, extractor, png):
    reply = ask(url, png, BOXES, outputs=("map", "pooled", "regions"), deterministic=True)
    own = extractor([png], boxes=[BOXES], outputs=("map", "pooled", "regions"))
    (image,) = reply.images
    assert np.array_equal(image.pooled, own.pooled[0].numpy())
    assert np.array_equal(image.map, own.map[0].numpy())
    assert np.array_equal(image.regions, own.regions[0].numpy())
    assert (image.width, image.height, image.error) == (120, 90, None)
    assert image.boxes.tolist() == [[10, 12, 60, 48], [0, 0, 32, 32]] and image.clipped.tolist() == [False, True]
    assert (reply.transform, reply.stride) == ("whole", 16) and set(reply.spaces) == {"map", "pooled", "regions"}
    assert (reply.model["arch"], reply.model["sha256"]) == ("resnet18", extractor.sha256)


def test_what_is_not_asked_for_is_none(ask, url, png):
    (image,) = ask(url, png).images
    assert image.pooled.shape == (512,)
    assert (image.map, image.regions, image.boxes, image.clipped) == (None,) * 4


def test_several_images_keep_their_order_and_their_boxes(ask, url, extractor, png, picture, packed):
    other = packed(picture.transpose(2), "JPEG")  # 90 x 120
    reply = ask(url, [other, png, png], [BOXES[:1], [], BOXES], transform="whole:64", stride=32)
    own = extractor([other, png, png], boxes=[BOXES[:1], [], BOXES], transform="whole:64", stride=32)
    assert [(one.width, one.height, len(one.boxes), len(one.clipped)) for one in reply.images] == [
        (90, 120, 1, 1),
        (120, 90, 0, 0),
        (120, 90, 2, 2),
    ]
    for image, pooled, regions in zip(reply.images, own.pooled, own.regions, strict=True):
        assert np.allclose(image.pooled, pooled, atol=1e-4) and np.allclose(image.regions, regions, atol=1e-4)
    assert (reply.transform, reply.stride) == ("whole:64", 32)


def test_a_path_is_as_good_as_its_bytes_and_an_array_as_its_lists(ask, url, png, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png)
    wanted = ask(url, png, BOXES, deterministic=True).images[0]
    same = [
        ask(url, path, np.array(BOXES), deterministic=True).images[0],
        ask(url, str(path), [np.array(row, np.float32) for row in BOXES], deterministic=True).images[0],
        *ask(url, [path, str(path)], np.array([BOXES, BOXES]), deterministic=True).images,
    ]
    assert all(np.array_equal(one.regions, wanted.regions) and np.array_equal(one.pooled, wanted.pooled) for one in same)


def test_an_option_of_one_name_may_stand_alone(ask, url, png):
    for images in (png, [png]):
        reply = ask(url, images, outputs="map", transform=None)
        assert set(reply.spaces) == {"map"} and reply.images[0].map.shape == (256, 14, 14)
        assert ask(url, images, outputs="map", expect_space=reply.spaces["map"]).spaces == reply.spaces


def test_as_many_boxes_as_a_server_takes_go_with_one_image(ask, url, png):
    """As a query they would be over the 16 KiB of a request's head."""
    rows = np.linspace([0, 0, 100, 80], [10, 9, 120, 90], 256)
    assert len(str(rows.tolist())) > 16 * 1024
    assert ask(url, png, rows).images[0].regions.shape == (256, 256)


@pytest.mark.parametrize(
    ("boxes", "options", "status", "code", "index", "image"),
    [
        ([BOXES, [[0, 0, 5, 5], [9, 9, 0, 0]]], {}, 422, "bad_box", 1, 1),
        ([BOXES, [[0, 0, 5, float("nan")]]], {}, 422, "bad_box", 0, 1),
        ([BOXES], {}, 422, "bad_request", None, None),
        (None, {"outputs": ["depth"]}, 422, "bad_request", None, None),
        (None, {"colour": "grey"}, 422, "bad_request", None, None),
        (None, {"model": "another"}, 404, "model_not_found", None, None),
        (None, {"expect_space": ["0123456789abcdef"]}, 409, "space_mismatch", None, None),
    ],
)
def test_a_refusal_says_what_the_server_says(ask, url, png, boxes, options, status, code, index, image):
    with pytest.raises(RefusedByServer) as found:
        ask(url, [png, png], boxes, **options)
    error = found.value
    assert (error.status, error.code, error.index, error.image) == (status, code, index, image)
    assert str(error) == f"{url} says {status} {code}: {error.detail}" and len(error.detail) > 20
    assert error.request_id and error.retry_after_s is None


def test_one_unreadable_image_refuses_all_or_has_its_error(ask, url, png):
    with pytest.raises(RefusedByServer) as found:
        ask(url, [png, png[:-200]])
    assert (found.value.code, found.value.index) == ("image_truncated", 1)
    good, bad = ask(url, [png, png[:-200]], on_error="partial").images
    assert good.error is None and good.pooled.shape == (512,)
    assert bad.error["code"] == "image_truncated" and bad.error["detail"].startswith("image 1: ")
    assert (bad.width, bad.pooled, bad.boxes) == (None, None, None)


def test_a_key_opens_and_none_does_not(ask, extractor, make_settings, png):
    with running(make_settings(api_keys=KEY), extractor) as url:
        assert ask(url, png, key=KEY).images[0].pooled.shape == (512,)
        for other in (None, "", KEY[:-1]):
            with pytest.raises(RefusedByServer) as found:
                ask(url, png, key=other)
            assert (found.value.status, found.value.code) == (401, "unauthorized")


def test_async_calls_wait_beside_each_other(gated, make_settings, png):
    extractor, gate = gated

    async def calls(url: str) -> list[Reply]:
        async with AsyncClient(url) as server:
            asked = [asyncio.ensure_future(server.features(png, transform="whole:32")) for _ in range(6)]
            await asyncio.to_thread(gate.reached.wait, 10)
            assert not any(one.done() for one in asked)
            gate.open.set()
            return await asyncio.gather(*asked)

    with running(make_settings(), extractor) as url:
        gate.shut()
        replies = asyncio.run(calls(url))
    assert all(np.allclose(one.images[0].pooled, replies[0].images[0].pooled, atol=1e-4) for one in replies)


def test_it_comes_again_when_it_is_told_to_and_says_how_much_time_is_left(ask, good):
    with playing(refusal(503, "0"), refusal(429, "0"), (200, {}, good)) as (url, seen):
        assert ask(url, b"image", timeout_s=10).images[0].pooled.shape == (512,)
    assert len(seen) == 3
    at = [when for when, _ in seen]
    deadlines = [int(headers["x-deadline-ms"]) / 1000 for _, headers in seen]
    assert 5 < deadlines[0] <= 0.9 * 10
    for before, after in ((0, 1), (1, 2)):
        assert at[after] - at[before] >= 0.1  # a pause, even where the server names none
        assert deadlines[before] - deadlines[after] >= 0.08  # of 0.1 s, its nine tenths, less what rounding takes


@pytest.mark.parametrize(("after", "least", "most"), [("0", 0.1, 0.15), ("2", 2, 3)])
def test_a_pause_is_as_long_as_asked_and_a_bit_of_chance(after, least, most):
    question, pauses = Question("url", 10, b"image", None, {}), set()
    for _ in range(50):
        question.hear(httpx.Response(429, headers={"retry-after": after}))
        pauses.add(question.pause_s)
    assert len(pauses) > 40 and least <= min(pauses) and max(pauses) <= most


def test_the_last_try_is_the_one_after_which_no_pause_fits():
    question = Question("url", 0.09, b"image", None, {})
    with pytest.raises(RefusedByServer):
        question.hear(httpx.Response(429, headers={"retry-after": "0"}))


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (refusal(503), None),
        (refusal(429, "Wed, 21 Oct 2026 07:28:00 GMT"), None),
        (refusal(429, "-1"), None),
        (refusal(500, "0"), None),
        (refusal(504, "0"), None),
        (refusal(429, "60"), 60),
    ],
)
def test_it_does_not_come_again_where_it_makes_no_sense(ask, answer, wait_s):
    with playing(answer) as (url, seen), pytest.raises(RefusedByServer) as found:
        ask(url, b"image")
    assert len(seen) == 1
    assert (found.value.status, found.value.code, found.value.retry_after_s) == (answer[0], "overloaded", wait_s)
    assert ("larger timeout_s has room for the 60 s" in str(found.value)) == (wait_s == 60)


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_was_said(ask):
    with playing((0, {}, b"")) as (url, seen), pytest.raises(NoAnswer) as found:
        start = time.monotonic()
        ask(url, b"image", timeout_s=0.1)
    assert 0.1 <= time.monotonic() - start < 9 and len(seen) <= 1
    assert str(found.value) == f"no answer from {url} within 0.1 s; " + str(found.value).split("; ")[1]
    assert "timeout_s" in str(found.value) and found.value.url == url


def test_where_nothing_listens_the_address_and_the_way_out_are_named(ask):
    with playing() as (url, _):
        pass
    with pytest.raises(NoAnswer, match=f"no answer from {url}: .*; is insloc-server running at this address and port"):
        ask(url, b"image")


@pytest.mark.parametrize(("url", "problem"), [("localhost:8411", "protocol"), ("http://a:b", "port"), ("", "protocol")])
def test_what_is_no_address_is_said_to_be_none(ask, url, problem):
    with pytest.raises(NoAnswer, match=problem):
        ask(url, b"image")


@pytest.mark.parametrize("body", [b"", b"<html>", b"\x02" + bytes(7) + b"{}", b"\xff" * 64])
def test_another_server_is_told_from_ours(ask, body):
    with playing((200, {"content-type": "text/html"}, body)) as (url, _), pytest.raises(NoAnswer, match="but text/html that"):
        ask(url, b"image")


def test_a_proxys_own_error_is_shown(ask):
    page = {"content-type": "text/html"}, b"<h1>Bad gateway</h1>" * 99
    with playing((502, *page)) as (url, _), pytest.raises(RefusedByServer, match="says 502 without a code: <h1>Bad") as found:
        ask(url, b"image")
    assert (found.value.status, found.value.code, len(found.value.detail)) == (502, "", 200)


@pytest.mark.parametrize(
    ("images", "boxes", "problem"),
    [
        ([], None, "no images"),
        (b"image", [[0, 0, 5, object()]], "boxes are numbers"),
        ([b"image"], [[[0, 0, 5, {1}]]], "boxes are numbers"),
    ],
)
def test_what_can_not_be_sent_is_said_before_anybody_is_asked(images, boxes, problem):
    with playing() as (url, seen), Client(url) as server, pytest.raises(InslocError, match=problem):
        server.features(images, boxes)
    assert seen == []


def test_pixels_are_no_image():
    """In a process of its own: here the types are checked before anything else."""
    script = "import numpy, insloc_server.client as c; c.Client('http://127.0.0.1:9').features({})"
    for pixels in ("numpy.zeros((2, 2))", "3"):
        done = subprocess.run([sys.executable, "-c", script.format(pixels)], capture_output=True, text=True, timeout=60)
        assert "InslocError: an image is the bytes of a file, or its path: " in done.stderr.splitlines()[-1]


def test_an_image_that_is_not_there_is_named(ask, tmp_path):
    with pytest.raises(BadData, match=r"none\.jpg: this image can't be read: No such file") as found:
        ask("http://127.0.0.1:9", [b"image", tmp_path / "none.jpg"])
    assert found.value.path == str(tmp_path / "none.jpg")


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_key_with_a_line_break_is_refused_and_not_repeated(make):
    for key in (f"{KEY}\n", f"{KEY}ä"):
        with pytest.raises(InslocError, match="line break") as found:
            make("http://127.0.0.1:9", key)
        assert KEY not in str(found.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(InslocError, match="timeout_s"):
        Client("http://127.0.0.1:9", timeout_s=seconds)


@pytest.mark.parametrize(
    ("boxes", "from_wh", "to_wh", "wanted"),
    [
        ([], (2, 2), (4, 4), []),
        (np.zeros((0, 4)), (2, 2), (4, 4), []),
        ([[1, 2, 3, 4]], (100, 50), (100, 50), [[1, 2, 3, 4]]),
        ([[1, 2, 3, 4], [0, 0, 10, 20]], (10, 20), (25, 10), [[2.5, 1, 7.5, 2], [0, 0, 25, 10]]),
    ],
)
def test_boxes_of_a_resized_copy_reach_the_same_part_of_the_image(boxes, from_wh, to_wh, wanted):
    scaled = scaled_boxes(boxes, from_wh, to_wh)
    assert scaled.shape == (len(wanted), 4) and scaled.tolist() == wanted


@pytest.mark.parametrize(
    ("boxes", "from_wh"), [([[1, 2, 3]], (2, 2)), ([1, 2, 3, 4], (2, 2)), ([], (0, 2)), ([], (2, float("nan")))]
)
def test_what_are_no_boxes_or_sizes_can_not_be_scaled(boxes, from_wh):
    with pytest.raises(InslocError, match="rows of x1, y1, x2, y2"):
        scaled_boxes(boxes, from_wh, (4, 4))


def test_client_and_server_name_the_same_type():
    assert SAFETENSORS == answers.SAFETENSORS


def test_a_client_needs_neither_torch_nor_the_server():
    heavy = ("torch", "torchvision", "timm", "scipy", "PIL", "fastapi", "starlette", "pydantic", "uvicorn")
    script = f"import sys, insloc_server.client; sys.exit(str([name for name in {heavy!r} if name in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""


def test_without_httpx_the_extra_is_named():
    script = "import sys; sys.modules['httpx'] = None; import insloc_server.client"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1].endswith("needs httpx: pip install 'insloc_hub[client]'")
