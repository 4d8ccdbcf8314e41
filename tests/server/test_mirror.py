"""The mirror's answers one by one: paths as bytes, ranges, heads, pages, tokens, and what is never shown."""

import asyncio
import http.client
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mirrors import mirror

from insloc_hub.files import sha256_file
from insloc_hub.models.repos import Repos
from insloc_server.mirror import create_mirror

SECRET = b"not for anybody"
DATA = bytes(range(256)) * 40


class Got(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(app: Any, path: str | bytes, method: str = "GET", body: bytes = b"", query: bytes = b"", **headers: str) -> Got:
    """One request as a server hands it on: the path as it stood on the wire, and decoded."""
    raw = path.encode() if isinstance(path, str) else path
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in ({"host": "mirror:80"} | headers).items()]
    scope = {"type": "http", "method": method, "scheme": "http", "raw_path": raw, "query_string": query, "headers": fields}
    scope |= {"path": raw.decode("utf-8", "replace"), "root_path": "", "http_version": "1.1", "asgi": {"spec_version": "2.4"}}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Got(sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One repository among all that must not be shown: links, hidden files, files beside, odd names."""
    top = tmp_path_factory.mktemp("mirror")
    (top / "secret.txt").write_bytes(SECRET)
    root = top / "models"
    repo = root / "lab/tiny"
    (repo / "parts/.hidden").mkdir(parents=True)
    (repo / "config.json").write_text('{"a": 1}')
    (repo / "model.safetensors").write_bytes(DATA)
    (repo / "parts/fpn.bin").write_bytes(DATA[:999])
    (repo / "empty").write_bytes(b"")
    for name in (".env", ".git", "parts/.hidden/a", "a\\b", "new\nline"):
        (repo / name).write_bytes(SECRET)
    (root / "beside.txt").write_bytes(SECRET)
    (root / "lab/beside.txt").write_bytes(SECRET)
    (root / ".hidden/repo").mkdir(parents=True)
    (root / ".hidden/repo/config.json").write_bytes(SECRET)
    (repo / "link.txt").symlink_to(top / "secret.txt")
    (repo / "link").symlink_to(top)
    (root / "lab/linked").symlink_to(top)
    (root / "outside").symlink_to(top)
    os.mkfifo(repo / "fifo")
    return root


@pytest.fixture(scope="module")
def app(root: Path) -> Any:
    return create_mirror(Repos(root))


NAMES = ["config.json", "empty", "model.safetensors", "parts/fpn.bin"]


def test_only_plain_visible_files_of_real_folders_are_listed(app):
    assert [entry["id"] for entry in ask(app, "/api/models").json()] == ["lab/tiny"]
    assert [one["rfilename"] for one in ask(app, "/api/models/lab/tiny").json()["siblings"]] == NAMES
    tree = ask(app, "/api/models/lab/tiny/tree/main", query=b"recursive=true").json()
    assert [entry["path"] for entry in tree] == [*NAMES[:3], "parts", NAMES[3]]
    assert [entry["path"] for entry in ask(app, "/api/models/lab/tiny/tree/main/parts").json()] == ["parts/fpn.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_a_head_says_the_length_and_the_checksum_that_a_get_brings(app, root, name):
    head, got = (ask(app, f"/lab/tiny/resolve/main/{name}", method) for method in ("HEAD", "GET"))
    assert (head.status, head.body, head.headers) == (200, b"", got.headers)
    assert got.body == (root / "lab/tiny" / name).read_bytes()
    assert int(head.headers["content-length"]) == len(got.body)
    assert len(head.headers["x-repo-commit"]) == 40 and "content-encoding" not in head.headers
    if name.endswith((".safetensors", ".bin")):
        assert head.headers["etag"] == head.headers["x-linked-etag"] == f'"{sha256_file(root / "lab/tiny" / name)}"'
        assert head.headers["x-linked-size"] == str(len(got.body))


def test_git_agrees_with_the_checksum_of_a_small_file(app, root):
    done = subprocess.run(["git", "hash-object", root / "lab/tiny/config.json"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs git")
    assert ask(app, "/lab/tiny/resolve/main/config.json").headers["etag"] == f'"{done.stdout.strip()}"'


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=10000-", 10_000, 10_239),
        ("bytes=-5", 10_235, 10_239),
        ("bytes=10000-99999", 10_000, 10_239),
    ],
)
def test_a_range_is_that_part(app, asked, first, last):
    got = ask(app, "/lab/tiny/resolve/main/model.safetensors", range=asked)
    assert (got.status, got.body) == (206, DATA[first : last + 1])
    assert got.headers["content-range"] == f"bytes {first}-{last}/10240"
    assert int(got.headers["content-length"]) == len(got.body)


def test_a_range_behind_the_end_is_refused_with_the_length_there_is(app):
    got = ask(app, "/lab/tiny/resolve/main/model.safetensors", range="bytes=10240-")
    assert (got.status, got.headers["content-range"]) == (416, "bytes */10240")


def commit_of(app: Any) -> str:
    return ask(app, "/api/models/lab/tiny").json()["sha"]


def test_a_commit_and_a_branch_name_the_same_bytes(app):
    commit = commit_of(app)
    assert ask(app, f"/lab/tiny/resolve/{commit}/config.json") == ask(app, "/lab/tiny/resolve/main/config.json")
    assert ask(app, f"/api/models/lab/tiny/revision/{commit}").json()["sha"] == commit


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/lab/none/resolve/main/config.json", 404, "RepoNotFound"),
        ("/none/tiny/resolve/main/config.json", 404, "RepoNotFound"),
        ("/tiny/resolve/main/config.json", 404, "RepoNotFound"),
        ("/lab/tiny", 404, "RepoNotFound"),
        ("/datasets/lab/tiny/resolve/main/config.json", 404, "RepoNotFound"),
        ("/lab/linked/resolve/main/secret.txt", 404, "RepoNotFound"),
        ("/.hidden/repo/resolve/main/config.json", 404, "RepoNotFound"),
        ("/lab/..%2Flab%2Ftiny/resolve/main/config.json", 404, "RepoNotFound"),
        ("/lab/tiny/resolve/none/config.json", 404, "RevisionNotFound"),
        ("/lab/tiny/resolve/" + "0" * 40 + "/config.json", 404, "RevisionNotFound"),
        ("/lab/tiny/resolve/refs%2Fpr%2F1/config.json", 404, "RevisionNotFound"),
        ("/lab/tiny/resolve/main/none", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/parts", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/.env", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/link.txt", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/link/secret.txt", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/fifo", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/../../../secret.txt", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/..%2f..%2f..%2fsecret.txt", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main//config.json", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/./config.json", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/config.json%00", 404, "EntryNotFound"),
        ("/lab/tiny/resolve/main/CONFIG.JSON", 404, "EntryNotFound"),
        ("/api/models/lab/none", 404, "RepoNotFound"),
        ("/api/models/tiny", 404, "RepoNotFound"),
        ("/api/models/lab/none/refs", 404, "RepoNotFound"),
        ("/api/models/lab/tiny/revision/none", 404, "RevisionNotFound"),
        ("/api/models/lab/tiny/tree/main/none", 404, "EntryNotFound"),
        ("/api/agent-harnesses", 404, None),
        ("/api/whoami-v2", 401, None),
    ],
)
def test_what_is_not_there_is_said_in_the_hub_s_codes(app, path, status, code):
    got = ask(app, path)
    assert (got.status, got.headers.get("x-error-code")) == (status, code)
    assert got.json()["error"] == got.headers["x-error-message"]
    assert ask(app, path, "HEAD").headers == got.headers
    if code == "EntryNotFound":
        assert got.headers["x-repo-commit"] == commit_of(app)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(app, method):
    for path in ("/api/repos/create", "/api/models/lab/tiny/commit/main", "/lab/tiny/resolve/main/config.json"):
        assert ask(app, path, method, b"{}").status == 405


def test_paths_info_takes_a_form_and_leaves_out_what_is_not_there(app):
    body = b"paths=config.json&paths=none&paths=parts&expand=false"
    got = ask(app, "/api/models/lab/tiny/paths-info/main", "POST", body).json()
    assert [(one["path"], one["type"]) for one in got] == [("config.json", "file"), ("parts", "directory")]
    assert ask(app, "/api/models/lab/tiny/paths-info/main", "POST", b"a" * 1024 * 1025).status == 413
    assert ask(app, "/api/models/lab/tiny/paths-info/main", "POST", b"\xff&&==%00").json() == []


def test_lists_come_in_pages_whose_links_lead_through_all_of_them(tmp_path):
    for number in range(5):
        (tmp_path / f"lab/m{number}").mkdir(parents=True)
        (tmp_path / f"lab/m{number}/config.json").write_text("{}")
    app = create_mirror(Repos(tmp_path), page=2)
    path, query, found = "/api/models", b"author=lab&full=true", []
    for _ in range(3):
        got = ask(app, path, query=query)
        found.append([one["id"] for one in got.json()])
        if "link" not in got.headers:
            break
        link = urlsplit(got.headers["link"].split(">")[0].removeprefix("<"))
        assert (link.scheme, link.netloc) == ("http", "mirror:80") and got.headers["link"].endswith('>; rel="next"')
        path, query = link.path, link.query.encode()
    assert found == [["lab/m0", "lab/m1"], ["lab/m2", "lab/m3"], ["lab/m4"]]
    assert len(ask(app, "/api/models", query=b"limit=4").json()) == 4


@pytest.mark.parametrize("query", [b"limit=0", b"limit=-1", b"limit=x", b"cursor=-1", b"cursor=%FF", b"limit=" + b"9" * 5000])
def test_a_number_that_is_none_is_refused(app, query):
    assert ask(app, "/api/models", query=query).status == 400


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (None, 401),
        ("Bearer s3cret", 200),
        ("bearer  s3cret ", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3crett", 401),
        ("Bearer ", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer \u00e9", 401),
    ],
)
def test_with_a_token_nothing_is_said_to_who_has_another(root, sent, status):
    app = create_mirror(Repos(root), "s3cret")
    headers = {} if sent is None else {"authorization": sent}
    for path in ("/", "/api/models", "/api/models/lab/tiny", "/lab/tiny/resolve/main/config.json"):
        got = ask(app, path, **headers)
        assert got.status == status
        assert status == 200 or (b"tiny" not in got.body and got.headers["x-error-code"] == "GatedRepo")


def test_there_and_not_there_look_the_same_without_the_token(root):
    app = create_mirror(Repos(root), "s3cret")
    assert ask(app, "/lab/tiny/resolve/main/config.json") == ask(app, "/lab/none/resolve/main/config.json")


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# no front matter",
        "---\na: [\n---\n",
        "---\n- a list\n---\n",
        "---\nscore: .nan\n---\n",
        "---\ntags: 3\nlicense: {a: b}\ndatasets: [1, null]\n---\n",
        "---\na: &a [1]\nb: &b [*a, *a]\n" + "".join(f"c{i}: &c{i} [{'*b, ' * 9}]\n" for i in range(2)) + "---\n",
        "---\na: &a {a: *a}\n---\n",
        "---\na0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)) + "---\n",
        "---\ndate: 2026-01-01\n---\n",
        "\x00\xff",
    ],
)
def test_any_card_leaves_the_model_to_be_had(tmp_path, card):
    (tmp_path / "lab/tiny").mkdir(parents=True)
    (tmp_path / "lab/tiny/README.md").write_text(card, encoding="utf-8")
    app = create_mirror(Repos(tmp_path))
    got = ask(app, "/api/models/lab/tiny")
    assert got.status == 200 and got.json()["id"] == "lab/tiny" and len(got.body) < 10_000
    assert ask(app, "/api/models", query=b"cardData=true&filter=none").json() == []


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
def test_no_path_leaves_the_folder_or_breaks_the_mirror(app, path, method, query, asked, body):
    headers = {} if asked is None else {"range": asked}
    got = ask(app, path, method, body, query, **headers)
    assert got.status in (200, 206, 400, 401, 404, 405, 416)
    assert SECRET not in got.body
    assert all(value.isprintable() for value in got.headers.values())
    if got.status in (200, 206) and b"/resolve/" in path and "content-range" not in got.headers and method == "GET":
        assert len(got.body) == int(got.headers["content-length"])


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
