"""Bytes, parts and memory of a request, counted while they come."""

import asyncio

import pytest
from fastapi.testclient import TestClient

from insloc_server.app import create_app
from insloc_server.limits import BLOCK, Body, Budget, check_input, split_form
from insloc_server.problems import Refusal

TYPE = "multipart/form-data; boundary=xyz"


def part(name, data=b"", header=b'; filename="a.png"'):
    return b'--xyz\r\nContent-Disposition: form-data; name="' + name + b'"' + header + b"\r\n\r\n" + data + b"\r\n"


def split(body, most=32, kind=TYPE):
    return asyncio.run(split_form(body, kind, most))


def test_parts_keep_their_bytes_and_their_order():
    data = [bytes(range(256)) * 700, b"\r\n--xy\r\n", b""]
    form = split(b"".join(part(b"image", one) for one in data) + part(b"request", b"{}", b"") + b"--xyz--\r\n")
    assert (form.images, form.request) == (data, b"{}")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "before its last boundary"),
        (b"--xyz--\r\n", "no part `image`"),
        (part(b"request", b"{}") + b"--xyz--\r\n", "no part `image`"),
        (part(b"image", b"a") + part(b"photo", b"b") + b"--xyz--\r\n", "unknown part 'photo'"),
        (part(b"image", b"a") + part(b"request") * 2 + b"--xyz--\r\n", "there twice"),
        (part(b"image", b"a") * 4 + b"--xyz--\r\n", "more than 3 images"),
        (part(b"image", b"a"), "before its last boundary"),
        (part(b"image", b"a")[:30], "before its last boundary"),
        (b"--xyz\r\nX-Long: " + b"a" * 5000 + b"\r\n\r\n--xyz--\r\n", "(?i)header"),
        (b"--xyz\r\nno colon\r\n\r\n--xyz--\r\n", "no well-formed"),
        (b"--abc\r\n\r\n", "no well-formed"),
        (b"--xyz\r\n\r\nno disposition\r\n--xyz--\r\n", "unknown part ''"),
    ],
)
def test_a_form_with_other_parts_than_it_should_have_is_refused(body, reason):
    with pytest.raises(Refusal, match=reason) as caught:
        split(body, most=3)
    assert caught.value.code == "bad_form"


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 300])
def test_a_form_needs_a_sound_boundary(boundary):
    with pytest.raises(Refusal) as caught:
        split(part(b"image", b"a") + b"--xyz--\r\n", kind=f"multipart/form-data{boundary}")
    assert caught.value.code == "bad_form"


def test_the_part_request_has_a_limit_of_its_own():
    with pytest.raises(Refusal) as caught:
        split(part(b"image", b"a") + part(b"request", b" " * (1024 * 1024 + 1)) + b"--xyz--\r\n")
    assert caught.value.code == "body_too_large"


def test_thirty_two_images_are_a_request_and_thirty_three_are_not(client, packed, post):
    from PIL import Image

    tiny = packed(Image.new("RGB", (16, 16)))
    assert len(post(client, [tiny] * 32, transform="whole:32").json()["images"]) == 32
    response = post(client, [tiny] * 33, transform="whole:32")
    assert (response.status_code, response.json()["code"], response.json()["limit"]) == (400, "bad_form", 32)


def test_options_of_a_form_belong_in_its_part_request(client, png):
    response = client.post("/v1/features", files={"image": ("a", png)}, params={"stride": 8})
    assert (response.status_code, response.json()["code"]) == (422, "bad_request")
    assert "`request`" in response.json()["detail"]


def test_a_query_parameter_given_twice_or_unknown_is_refused(client, png, post_raw):
    kind = {"content-type": "image/png"}
    twice = client.post("/v1/features?stride=8&stride=16", content=png, headers=kind)
    assert (twice.status_code, twice.json()["code"]) == (422, "bad_request") and "stride is given twice" in twice.text
    assert post_raw(client, png, strides=8).json()["errors"][0]["pointer"] == "/query/strides"
    repeated = client.post("/v1/features?outputs=pooled&outputs=map&transform=whole:32", content=png, headers=kind)
    assert {"pooled", "map"} < repeated.json()["images"][0].keys()


@pytest.fixture(scope="module")
def small(extractor, make_settings):
    with TestClient(create_app(make_settings(max_body_bytes=40_000, max_held_bytes=50_000), extractor)) as client:
        yield client


def test_a_body_of_exactly_the_limit_passes_and_a_byte_more_does_not(small, png):
    kind = {"content-type": "image/png"}
    padded = png + bytes(40_000 - len(png))  # bytes after the image are no matter to a decoder
    assert small.post("/v1/features", content=padded, headers=kind).status_code == 200
    response = small.post("/v1/features", content=padded + b"x", headers=kind)
    assert (response.status_code, response.json()["code"], response.json()["limit"]) == (413, "body_too_large", 40_000)


def test_a_chunked_body_is_counted_as_it_comes(small, png):
    kind = {"content-type": "image/png"}
    response = small.post("/v1/features", content=(bytes(1000) for _ in range(41)), headers=kind)
    assert "content-length" not in response.request.headers
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert small.post("/v1/features", content=iter([png[:100], png[100:]]), headers=kind).status_code == 200


def test_bytes_in_work_are_counted_together_and_given_back(small, png):
    budget = small.app.state.budget
    assert budget.held == 0
    budget.charge(45_000)
    response = small.post("/v1/features", content=png, headers={"content-type": "image/png"})
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (429, "overloaded", "1")
    budget.release(45_000)
    assert small.post("/v1/features", content=png, headers={"content-type": "image/png"}).status_code == 200
    assert budget.held == 0


def test_a_body_in_many_pieces_is_held_in_few():
    body = Body(Budget(BLOCK * 4))
    for _ in range(3000):
        body.add(b"x" * 100)
    assert (len(body.blocks), body.size) == (2, 300_000)
    body.whole()
    assert body.data == b"x" * 300_000 and body.blocks == []


def test_a_body_is_released_once():
    budget = Budget(10)
    body = Body(budget)
    body.add(b"123456")
    with pytest.raises(Refusal):
        body.add(b"12345")
    body.add(b"7")
    body.whole()
    assert (budget.held, body.data) == (7, b"1234567")
    body.release()
    body.release()
    assert budget.held == 0


def test_a_full_queue_is_told_before_decoding(gated, make_settings, png):
    import threading

    extractor, gate = gated
    kind = {"content-type": "image/png"}
    with TestClient(create_app(make_settings(queue_images=1), extractor)) as client:
        gate.shut()
        answers = []
        first = threading.Thread(target=lambda: answers.append(client.post("/v1/features", content=png, headers=kind)))
        first.start()
        assert gate.reached.wait(30)
        response = client.post("/v1/features", content=b"not even an image", headers=kind)
        assert (response.status_code, response.json()["code"]) == (429, "overloaded")
        assert int(response.headers["retry-after"]) == response.json()["retry_after"] >= 1
        gate.open.set()
        first.join(30)
        assert answers[0].status_code == 200
        assert client.post("/v1/features", content=png, headers=kind).status_code == 200


def test_only_the_transform_that_has_a_free_size_is_limited(make_settings):
    settings = make_settings(max_input_pixels=10_000)
    check_input("whole", (5000, 5000), settings)
    check_input("whole:60", (50, 50), settings)  # 64 x 64 at most 92 x 92
    with pytest.raises(Refusal):
        check_input("whole:60", (50, 100), settings)
