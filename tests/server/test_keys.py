"""Who may ask: several keys, stored as digests, asked for before a body is read."""

import hashlib
import time

import pytest
from fastapi.testclient import TestClient
from wire import head, send

from insloc_hub.errors import InslocError
from insloc_server.app import create_app
from insloc_server.keys import new_key, parse_keys, read_keyring
from insloc_server.serve import running
from insloc_server.settings import Settings, make_settings

ANN, BOB = "ann-0123456789abcdef", "bob-0123456789abcdef=="


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"# who may ask\nann {ANN}\nbob sha256:{hashlib.sha256(BOB.encode()).hexdigest()} # from May on\n")
    return path


@pytest.fixture(scope="module")
def keyed(extractor, make_settings, file):
    with TestClient(create_app(make_settings(api_keys_file=file), extractor)) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {ANN}"}, {"authorization": f"bearer  {BOB} "}, {"x-api-key": ANN}, {"x-api-key": BOB}],
)
def test_a_known_key_opens_in_either_header(keyed, png, headers):
    response = keyed.post("/v1/features", content=png, headers={"content-type": "image/png", **headers})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {ANN}x"},
        {"authorization": f"Basic {ANN}"},
        {"authorization": ANN},
        {"x-api-key": ""},
        {"x-api-key": hashlib.sha256(BOB.encode()).hexdigest()},
        {"x-api-key": "sha256:" + hashlib.sha256(BOB.encode()).hexdigest()},
        {"authorization": "Bearer no", "x-api-key": ANN},  # the first one counts
        {"authorization": b"Bearer \xff\xfe"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nowhere"])
def test_any_other_key_opens_nothing(keyed, path, headers):
    response = keyed.get(path, headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer" and ANN not in response.text


def test_health_needs_no_key(keyed):
    assert (keyed.get("/livez").status_code, keyed.get("/readyz").status_code) == (200, 200)


def test_without_keys_all_may_ask(client):
    assert client.get("/v1/models", headers={"x-api-key": "whatever"}).status_code == 200


def test_a_body_with_a_bad_key_is_refused_before_it_is_read(extractor, make_settings):
    with running(make_settings(api_keys=ANN, max_body_bytes=200_000_000), extractor) as url:
        start = time.monotonic()
        status, headers, _ = send(url, head(content_type="image/png", content_length=100_000_000, x_api_key="wrong"))
        assert (status, headers["connection"]) == (401, "close") and time.monotonic() - start < 1
        assert send(url, head("GET", "/v1/models", x_api_key=ANN))[0] == 200


def test_every_known_key_is_compared_whichever_fits(monkeypatch):
    from insloc_server import keys

    compared = []

    def compare(a, b):
        compared.append(a)
        return a == b

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    ring = parse_keys(f"ann {ANN}, bob {BOB}, {'c' * 20}", "here")
    assert keys.owner(ring, {"x-api-key": ANN}) == "ann" and len(compared) == 3


def test_keys_of_the_environment_and_of_the_file_are_all_known(monkeypatch, file):
    monkeypatch.setenv("INSLOC_SERVER_API_KEYS", f"carol {'c' * 20},{'d' * 20}")
    settings = make_settings(model="a", api_keys_file=file)
    assert sorted(read_keyring(settings).values()) == ["ann", "bob", "carol", "key-2"]
    assert "cccc" not in repr(settings) and "cccc" not in str(settings.model_dump())
    assert all(len(digest) == 32 for digest in read_keyring(settings))


@pytest.mark.parametrize(
    "text",
    [
        "short",
        "a b " + "c" * 20,
        "n\u00e4me " + "c" * 20,
        "c" * 201,
        "sha256:" + "a" * 63,
        "k\u00e9y" + "c" * 20,
        "c" * 20 + "#d",
        "x" * 33 + " " + "c" * 20,
    ],
)
def test_what_is_no_key_is_refused_without_being_repeated(text):
    with pytest.raises(InslocError, match="entry 2 is no") as caught:
        parse_keys("a" * 16 + "\n" + text, "here")
    assert text not in str(caught.value)


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"# none\n", "no key in it"), (b"\xff", "not text")])
def test_a_file_without_keys_is_refused(tmp_path, content, reason):
    path = tmp_path / "keys.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InslocError, match=reason):
        read_keyring(Settings(model="a", api_keys_file=path))


def test_a_new_key_is_known_by_its_line():
    key, line = new_key("ann")
    assert parse_keys(line, "here") == {hashlib.sha256(key.encode()).digest(): "ann"}
    assert len(key) > 40 and new_key("ann")[0] != key
    with pytest.raises(InslocError, match="no name"):
        new_key("a b")


@pytest.mark.parametrize("guard", [{"api_keys": ANN}, {"api_keys_file": "keys.txt"}])
def test_a_key_allows_an_address_that_others_reach(guard):
    assert make_settings(model="a", host="0.0.0.0", **guard).host == "0.0.0.0"
    with pytest.raises(InslocError, match=r"insloc-server key.*--allow-remote"):
        make_settings(model="a", host="0.0.0.0", api_keys=" ")


def test_other_origins_get_no_leave(client, png):
    """CORS is off: a page of another site may neither ask first nor read an answer."""
    asks = {"origin": "https://example.org", "access-control-request-method": "POST"}
    assert client.options("/v1/features", headers=asks).status_code == 405
    response = client.post("/v1/features", content=png, headers={"content-type": "image/png", "origin": "https://example.org"})
    assert not [name for name in response.headers if name.startswith("access-control")]
