"""Every code a client can meet, met; and a body that tells the way out but nothing of the inside."""

import json

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from insloc_server.app import create_app
from insloc_server.problems import CODES, problem_body, refusal_of

PNG = {"content-type": "image/png"}
ELSEWHERE = {
    "overloaded": "test_engine.py, test_limits.py",
    "rate_limited": "test_room.py",
    "out_of_memory": "test_compute.py",
    "receive_timeout": "test_serve.py",
    "space_mismatch": "test_app.py",
    "deadline_exceeded": "test_exchange.py",
    "headers_too_large": "test_connection.py",
    "too_many_connections": "test_connection.py",
    "unauthorized": "test_keys.py",
    "not_ready": "below",
    "inference_failed": "below",
    "internal": "below",
    "http_error": "below",
}


def size(packed, w, h):
    return packed(Image.new("RGB", (w, h), (9, 99, 199)))


def form(*parts, boundary="xyz"):
    body = b"".join(b"--xyz\r\nContent-Disposition: form-data; name=" + part + b"\r\n" for part in parts)
    return {"content": body + b"--xyz--\r\n", "headers": {"content-type": f"multipart/form-data; boundary={boundary}"}}


CASES = {
    "bad_form": lambda png, packed: form(b'"photo"; filename="a.png"\r\n\r\n' + png),
    "bad_json": lambda png, packed: {"content": png, "headers": PNG, "params": {"boxes": "[[1,2"}},
    "empty_body": lambda png, packed: {"headers": PNG},
    "model_not_found": lambda png, packed: {"content": png, "headers": PNG, "params": {"model": "vgg"}},
    "not_acceptable": lambda png, packed: {"content": png, "headers": {**PNG, "accept": "text/html"}},
    "body_too_large": lambda png, packed: {"content": bytes(16 * 1024 * 1024 + 1), "headers": PNG},
    "image_too_large": lambda png, packed: {"content": size(packed, 5001, 5000), "headers": PNG},
    "unsupported_image": lambda png, packed: {"content": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "headers": PNG},
    "unsupported_media_type": lambda png, packed: {"content": png, "headers": {"content-type": "application/octet-stream"}},
    "answer_too_large": lambda png, packed: {"content": png, "headers": PNG, "params": {"outputs": "map", "stride": 2}},
    "bad_aspect_ratio": lambda png, packed: {"content": size(packed, 408, 8), "headers": PNG},
    "bad_box": lambda png, packed: {"content": png, "headers": PNG, "params": {"boxes": "[[0,0,9,9],[9,9,0,0]]"}},
    "bad_request": lambda png, packed: {"content": png, "headers": PNG, "params": {"stride": "7"}},
    "empty_image": lambda png, packed: form(b'"image"; filename="a.png"\r\n\r\n'),
    "image_too_small": lambda png, packed: {"content": size(packed, 7, 60), "headers": PNG},
    "image_truncated": lambda png, packed: {"content": png[:-500], "headers": PNG},
    "too_many_boxes": lambda png, packed: {
        "content": png,
        "headers": PNG,
        "params": {"boxes": json.dumps([[0, 0, 9, 9]] * 257)},
    },
}


def check_problem(response, code):
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    status, title = CODES[code]
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert (body["type"], body["title"]) == (f"urn:insloc:problem:{code}", title)
    assert body["instance"] == response.headers["x-request-id"] and len(body["detail"]) > 10
    assert "Traceback" not in response.text and "/site-packages/" not in response.text
    return body


def test_every_code_is_met_by_a_test():
    assert set(CODES) == {*CASES, *ELSEWHERE, "not_found", "method_not_allowed"}


@pytest.fixture(scope="module")
def narrow(extractor, make_settings):
    """A server with a small answer limit, so that the map of stride 2 is too large."""
    with TestClient(create_app(make_settings(max_answer_bytes=10_000_000), extractor)) as client:
        yield client


@pytest.mark.parametrize("code", CASES)
def test_the_code_of_a_refused_request(narrow, png, packed, code):
    check_problem(narrow.post("/v1/features", **CASES[code](png, packed)), code)
    assert narrow.post("/v1/features", content=png, headers=PNG).status_code == 200


def test_a_path_or_method_that_is_not_there(client):
    check_problem(client.get("/v1/feature"), "not_found")
    response = client.get("/v1/features")
    check_problem(response, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    check_problem(client.get("/v1/models/resnet50"), "model_not_found")


def test_another_status_of_the_framework_keeps_its_number():
    from starlette.exceptions import HTTPException

    from insloc_server.problems import problem_response

    response = problem_response(HTTPException(418, "teapot"), "id")
    body = json.loads(response.body)
    assert (response.status_code, body["status"], body["code"]) == (418, 418, "http_error")


def test_facts_stand_in_the_body(client, png, post, packed):
    box = post(client, [png, png], boxes=[[[0, 0, 9, 9]], [[0, 0, 9, 9], [0, 0, 0, 9]]]).json()
    assert (box["code"], box["image"], box["index"]) == ("bad_box", 1, 1)
    assert "box 1 of image 1" in box["detail"] and "x1 < x2" in box["detail"]
    many = post(client, [png], boxes=[[[0, 0, 9, 9]] * 300]).json()
    assert (many["code"], many["index"], many["limit"]) == ("too_many_boxes", 0, 256)
    total = post(client, [png] * 5, boxes=[[[0, 0, 9, 9]] * 206] * 5).json()
    assert (total["code"], total["limit"]) == ("too_many_boxes", 1024) and "index" not in total
    small = post(client, [png, size(packed, 7, 7)]).json()
    assert (small["code"], small["index"]) == ("image_too_small", 1)


def test_wrong_fields_are_named_by_pointer_and_not_repeated(client, png, post):
    body = post(client, [png], outputs=["pooled", "secret-value"], strid=16).json()
    assert body["code"] == "bad_request"
    assert {error["pointer"] for error in body["errors"]} == {"/outputs/1", "/strid"}
    assert "secret-value" not in json.dumps(body)


def test_a_failure_of_the_model_is_told_without_its_inside_and_harms_nobody_else(broken, make_settings, png, packed, post):
    black, white = size(packed, 64, 64), packed(Image.new("RGB", (64, 64), (255, 255, 255)))
    black = packed(Image.new("RGB", (64, 64), (0, 0, 0)))
    with TestClient(create_app(make_settings(), broken)) as client:
        before = post(client, [png]).json()
        assert "secret" not in json.dumps(check_problem(post(client, [black]), "inference_failed"))
        assert "no finite numbers" in check_problem(post(client, [white]), "inference_failed")["detail"]
        assert post(client, [png]).json()["images"] == before["images"]
        assert client.get("/readyz").status_code == 200


def test_an_error_of_ours_is_logged_and_answered_without_its_text(client, png, post_raw, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("at /secret/path")

    monkeypatch.setattr("insloc_server.features.answer_head", fail)
    body = check_problem(post_raw(client, png), "internal")
    assert "secret" not in json.dumps(body)
    assert body["instance"] in caplog.text and "ZeroDivisionError: at /secret/path" in caplog.text


def test_a_model_that_can_t_run_leaves_the_server_not_ready(make_settings, png, post_raw, caplog):
    from insloc_hub import load

    def fail(*_: object) -> None:
        raise RuntimeError("no kernel")

    extractor = load("random:resnet18@1", "cpu")
    extractor.model.layer4.register_forward_pre_hook(fail)
    with TestClient(create_app(make_settings(), extractor)) as client:
        assert client.get("/livez").status_code == 200
        check_problem(client.get("/readyz"), "not_ready")
        check_problem(post_raw(client, png), "not_ready")
    assert "no kernel" in caplog.text


def test_an_app_that_was_not_started_says_so(make_settings, extractor, png, post_raw):
    client = TestClient(create_app(make_settings(), extractor))
    check_problem(client.get("/readyz"), "not_ready")
    check_problem(post_raw(client, png), "not_ready")


def test_the_members_come_in_the_order_of_the_rfc_and_none_is_null():
    body = problem_body(refusal_of(ValueError("x")), "id")
    assert list(body) == ["type", "title", "status", "detail", "instance", "code"]
