"""The mirror under odd requests and big files: it shows nothing else, never breaks, and holds no file in memory."""

import http.client
import random
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mirrors import SECRET, ask, mirror

PIECES = [b"lab", b"tiny", b"resolve", b"main", b"api", b"models", b"tree", b"revision", b"refs", b"config.json", b"parts"]
PIECES += [b"..", b".", b"", b"%2e%2e", b"%2E.", b"..%2f..%2fsecret.txt", b"secret.txt", b"link", b"link.txt", b".env"]
PIECES += [
    b"%00",
    b"%ff",
    b"%",
    b"%zz",
    b"\\..\\",
    b"linked",
    b"outside",
    b"~",
    b"a%0d%0aX-Bad:1",
    b"beside.txt",
    b"%252e%252e",
]
ROUTES = [
    b"/lab/tiny/resolve/main/",
    b"/lab/tiny/resolve/",
    b"/api/models/lab/tiny/tree/main/",
    b"/api/models/",
    b"/lab/",
    b"/",
]
paths = st.builds(
    lambda start, pieces: start + b"/".join(pieces),
    st.sampled_from(ROUTES),
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=12).map(lambda b: b.replace(b"?", b""))), max_size=7),
)
ranges = st.one_of(st.none(), st.text(max_size=20).map("bytes={}".format), st.sampled_from(["bytes=0-1,5-9", "bytes=-0", "x"]))


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=paths,
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    query=st.one_of(st.just(b""), st.binary(max_size=30)),
    asked=ranges,
    body=st.binary(max_size=40),
)
def test_no_path_leaves_the_folder_or_breaks_the_mirror(mirror_app, path, method, query, asked, body):
    headers = {} if asked is None else {"range": asked}
    got = ask(mirror_app, path, method, body, query, **headers)
    assert got.status in (200, 206, 400, 401, 404, 405, 416)
    assert SECRET not in got.body
    assert all(value.isprintable() for value in got.headers.values())
    if got.status in (200, 206) and b"/resolve/" in path and "content-range" not in got.headers and method == "GET":
        assert len(got.body) == int(got.headers["content-length"])


def raw(url: str, lines: list[bytes]) -> list[int]:
    """The statuses that a real server gives these request lines, each on a connection of its own; 0: it just closed."""
    place = urlsplit(url)
    found = []
    for line in lines:
        with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
            connection.sendall(line + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            data = b""
            while chunk := connection.recv(65536):
                data += chunk
        assert SECRET not in data
        found.append(int(data.split(b" ", 2)[1]) if data else 0)
    return found


def test_over_a_socket_odd_request_lines_are_refused_too_and_the_mirror_lives_on(mirrored):
    drawn = random.Random(0)
    odd = [drawn.choice(ROUTES) + b"/".join(drawn.choices(PIECES, k=drawn.randint(0, 6))) for _ in range(300)]
    odd += [drawn.choice(ROUTES) + drawn.randbytes(9).replace(b"\n", b"") for _ in range(50)]
    odd += [
        b"http://other/lab/tiny/resolve/main/../../../secret.txt",
        b"*",
        b"/" + b"a" * 200_000,
        b"/lab/tiny/resolve/main/" + b"../" * 999,
    ]
    with mirror(mirrored) as (url, process):
        statuses = raw(url, [drawn.choice([b"GET ", b"HEAD ", b"OPTIONS "]) + path for path in odd])
        assert raw(url, [b"GET /lab/tiny/resolve/main/config.json"]) == [200]
        assert process.poll() is None
    assert {404, 405} <= set(statuses) and max(statuses) < 500


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 250 MB that takes no room: zeros with a mark at the end."""
    root = tmp_path_factory.mktemp("big")
    (root / "lab/big").mkdir(parents=True)
    with (root / "lab/big/model.safetensors").open("wb") as handle:
        handle.seek(250_000_000)
        handle.write(b"end")
    return root


def read_all(url: str, path: str) -> tuple[int, bytes]:
    """Length and last bytes of an answer."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    connection.request("GET", path)
    response, length, tail = connection.getresponse(), 0, b""
    while chunk := response.read(1 << 20):
        length, tail = length + len(chunk), chunk[-3:]
    connection.close()
    return length, tail


def test_big_files_go_out_side_by_side_in_pieces_and_never_whole_into_memory(big):
    with mirror(big) as (url, process):
        got: list[Any] = [None] * 2
        path = "/lab/big/resolve/main/model.safetensors"

        def one(number: int) -> None:
            got[number] = read_all(url, path)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got == [(250_000_003, b"end")] * 2
        peak = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
        assert int(peak.split()[1]) < 200_000  # kB


def test_a_download_in_work_does_not_keep_sigterm_from_ending_the_mirror(big):
    with mirror(big) as (url, process):
        place = urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        connection.request("GET", "/lab/big/resolve/main/model.safetensors")
        response = connection.getresponse()
        response.read(1 << 20)
        process.terminate()
        rest = 1 << 20
        while chunk := response.read(1 << 20):
            rest += len(chunk)
        assert rest == 250_000_003  # what was begun is finished
        connection.close()
        assert process.wait(20) == 0
