"""The mirror's answers one by one: paths as bytes, ranges, heads, pages, tokens, and what is never shown."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mirrors import DATA, ask

from insloc_hub.files import sha256_file
from insloc_hub.models.repos import Repos
from insloc_server.mirror import create_mirror

NAMES = ["config.json", "empty", "model.safetensors", "parts/fpn.bin"]


def test_only_plain_visible_files_of_real_folders_are_listed(mirror_app):
    assert [entry["id"] for entry in ask(mirror_app, "/api/models").json()] == ["lab/tiny"]
    assert [one["rfilename"] for one in ask(mirror_app, "/api/models/lab/tiny").json()["siblings"]] == NAMES
    tree = ask(mirror_app, "/api/models/lab/tiny/tree/main", query=b"recursive=true").json()
    assert [entry["path"] for entry in tree] == [*NAMES[:3], "parts", NAMES[3]]
    assert [entry["path"] for entry in ask(mirror_app, "/api/models/lab/tiny/tree/main/parts").json()] == ["parts/fpn.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_a_head_says_the_length_and_the_checksum_that_a_get_brings(mirror_app, mirrored, name):
    head, got = (ask(mirror_app, f"/lab/tiny/resolve/main/{name}", method) for method in ("HEAD", "GET"))
    assert (head.status, head.body, head.headers) == (200, b"", got.headers)
    assert got.body == (mirrored / "lab/tiny" / name).read_bytes()
    assert int(head.headers["content-length"]) == len(got.body)
    assert len(head.headers["x-repo-commit"]) == 40 and "content-encoding" not in head.headers
    if name.endswith((".safetensors", ".bin")):
        assert head.headers["etag"] == head.headers["x-linked-etag"] == f'"{sha256_file(mirrored / "lab/tiny" / name)}"'
        assert head.headers["x-linked-size"] == str(len(got.body))


def test_git_agrees_with_the_checksum_of_a_small_file(mirror_app, mirrored):
    done = subprocess.run(["git", "hash-object", mirrored / "lab/tiny/config.json"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs git")
    assert ask(mirror_app, "/lab/tiny/resolve/main/config.json").headers["etag"] == f'"{done.stdout.strip()}"'


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
def test_a_range_is_that_part(mirror_app, asked, first, last):
    got = ask(mirror_app, "/lab/tiny/resolve/main/model.safetensors", range=asked)
    assert (got.status, got.body) == (206, DATA[first : last + 1])
    assert got.headers["content-range"] == f"bytes {first}-{last}/10240"
    assert int(got.headers["content-length"]) == len(got.body)


def test_a_range_behind_the_end_is_refused_with_the_length_there_is(mirror_app):
    got = ask(mirror_app, "/lab/tiny/resolve/main/model.safetensors", range="bytes=10240-")
    assert got.status == 416 and got.headers["content-range"].endswith("*/10240")  # old starlettes leave out "bytes"


def commit_of(app: Any) -> str:
    return ask(app, "/api/models/lab/tiny").json()["sha"]


def test_a_commit_and_a_branch_name_the_same_bytes(mirror_app):
    commit = commit_of(mirror_app)
    assert ask(mirror_app, f"/lab/tiny/resolve/{commit}/config.json") == ask(mirror_app, "/lab/tiny/resolve/main/config.json")
    assert ask(mirror_app, f"/api/models/lab/tiny/revision/{commit}").json()["sha"] == commit


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
def test_what_is_not_there_is_said_in_the_hub_s_codes(mirror_app, path, status, code):
    got = ask(mirror_app, path)
    assert (got.status, got.headers.get("x-error-code")) == (status, code)
    assert got.json()["error"] == got.headers["x-error-message"]
    assert ask(mirror_app, path, "HEAD").headers == got.headers
    if code == "EntryNotFound":
        assert got.headers["x-repo-commit"] == commit_of(mirror_app)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(mirror_app, method):
    for path in ("/api/repos/create", "/api/models/lab/tiny/commit/main", "/lab/tiny/resolve/main/config.json"):
        assert ask(mirror_app, path, method, b"{}").status == 405


def test_paths_info_takes_a_form_and_leaves_out_what_is_not_there(mirror_app):
    body = b"paths=config.json&paths=none&paths=parts&expand=false"
    got = ask(mirror_app, "/api/models/lab/tiny/paths-info/main", "POST", body).json()
    assert [(one["path"], one["type"]) for one in got] == [("config.json", "file"), ("parts", "directory")]
    assert ask(mirror_app, "/api/models/lab/tiny/paths-info/main", "POST", b"a" * 1024 * 1025).status == 413
    assert ask(mirror_app, "/api/models/lab/tiny/paths-info/main", "POST", b"\xff&&==%00").json() == []


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
def test_a_number_that_is_none_is_refused(mirror_app, query):
    assert ask(mirror_app, "/api/models", query=query).status == 400


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
def test_with_a_token_nothing_is_said_to_who_has_another(mirrored, sent, status):
    app = create_mirror(Repos(mirrored), "s3cret")
    headers = {} if sent is None else {"authorization": sent}
    for path in ("/", "/api/models", "/api/models/lab/tiny", "/lab/tiny/resolve/main/config.json"):
        got = ask(app, path, **headers)
        assert got.status == status
        assert status == 200 or (b"tiny" not in got.body and got.headers["x-error-code"] == "GatedRepo")


def test_there_and_not_there_look_the_same_without_the_token(mirrored):
    app = create_mirror(Repos(mirrored), "s3cret")
    assert ask(app, "/lab/tiny/resolve/main/config.json") == ask(app, "/lab/none/resolve/main/config.json")


@pytest.fixture
def no_root() -> Iterator[None]:
    """In the block we are nobody: root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """Two models for everybody, one of which has a file for nobody; not below pytest's own folder, which is private."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for repo in ("lab/closed", "lab/open"):
            (folder / repo).mkdir(parents=True)
            (folder / repo / "config.json").write_text("{}")
        (folder / "lab/closed/config.json").chmod(0)
        yield folder


def test_a_model_that_can_t_be_read_is_refused_and_keeps_no_other_from_being_listed(unreadable, no_root):
    app = create_mirror(Repos(unreadable))
    assert [one["id"] for one in ask(app, "/api/models").json()] == ["lab/open"]
    assert ask(app, "/lab/open/resolve/main/config.json").body == b"{}"
    for path in ("/lab/closed/resolve/main/config.json", "/api/models/lab/closed"):
        assert ask(app, path).status == 403  # no 5xx: the client would try again for half a minute
