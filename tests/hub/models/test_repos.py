"""A folder of repositories: both forms, what counts as one, digests that follow the bytes."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from insloc_hub.models.repos import LARGE_BYTES, REFS, Repos, commit_of, git_blob

A, B = "a" * 40, "b" * 40


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_an_empty_folder_holds_nothing(tmp_path):
    (tmp_path / "lab/empty").mkdir(parents=True)
    repos = Repos(tmp_path)
    assert repos.ids() == [] and repos.refs("lab/empty") == {} and repos.revision("lab/empty", "main") is None
    assert Repos(tmp_path / "nowhere").ids() == []


def test_a_folder_put_there_by_hand_is_main_at_a_commit_of_its_bytes(tmp_path):
    fill(tmp_path / "lab/one", config__json="{}")
    repos = Repos(tmp_path)
    main = repos.revision("lab/one", "main")
    assert main.files["config.json"].digests.oid == git_blob(b"{}") and repos.revision("lab/one", main.commit) == main
    fill(tmp_path / "elsewhere/lab/two", config__json="{}")
    assert Repos(tmp_path / "elsewhere").revision("lab/two", "main").commit == main.commit
    fill(tmp_path / "lab/one", config__json="[]")
    os.utime(tmp_path / "lab/one/config.json", ns=(1, 1))  # no clock's grain may hide it
    assert repos.revision("lab/one", "main").commit != main.commit
    assert repos.revision("lab/one", main.commit) is None


def test_the_commit_depends_on_names_and_bytes_and_on_nothing_else(tmp_path):
    repos = Repos(tmp_path)
    first = repos.files(fill(tmp_path / "a", x="1", y="2"))
    assert commit_of(first) == commit_of(dict(reversed(first.items())))
    others = [fill(tmp_path / "b", x="2", y="1"), fill(tmp_path / "c", x="1", z="2"), fill(tmp_path / "d", x="1")]
    assert len({commit_of(first), *(commit_of(repos.files(folder)) for folder in others)}) == 4


def test_what_pull_keeps_is_seen_by_branch_and_by_commit(tmp_path):
    place = fill(tmp_path / "lab/one")
    fill(place / A, config__json="a")
    fill(place / B, config__json="b")
    (place / REFS).write_text(json.dumps({"main": A, "gone": "c" * 40}))
    repos = Repos(tmp_path)
    assert repos.refs("lab/one") == {"main": A}
    assert [repos.revision("lab/one", name).commit for name in ("main", A, B)] == [A, A, B]
    assert [repos.revision("lab/one", name) for name in ("gone", "c" * 40, A[:7], REFS, "..", "")] == [None] * 6
    assert repos.revision("lab/one", B).files["config.json"].path.read_text() == "b"


@pytest.mark.parametrize("text", ["", "[]", '{"main": "../../.."}', '{"main": 3}'])
def test_a_table_of_branches_that_was_spoilt_hides_the_model_and_not_the_others(tmp_path, text):
    fill(tmp_path / "lab/one" / A, config__json="a")
    (tmp_path / "lab/one" / REFS).write_text(text)
    fill(tmp_path / "lab/two", config__json="{}")
    assert Repos(tmp_path).ids() == ["lab/two"]


@pytest.mark.parametrize(
    "repo", ["", "lab", "lab/", "/one", "lab/one/two", "../lab", "lab/..", ".x/one", "lab/.one", "lab\\one"]
)
def test_what_is_no_id_is_no_repository(tmp_path, repo):
    fill(tmp_path / "lab/one", config__json="{}")
    assert Repos(tmp_path).folder(repo) is None and Repos(tmp_path).refs(repo) == {}


def test_weights_and_big_files_are_named_by_sha256_and_a_pointer_others_by_git(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    (tmp_path / "big.txt").write_bytes(bytes(LARGE_BYTES + 1))
    (tmp_path / "small.txt").write_bytes(b"abc")
    files = Repos(tmp_path).files(tmp_path)
    sha256 = hashlib.sha256(b"abc").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 3\n".encode()
    digests = files["model.safetensors"].digests
    assert (digests.sha256, digests.oid, digests.pointer_size) == (sha256, git_blob(pointer), len(pointer))
    assert files["big.txt"].digests.sha256 == hashlib.sha256(bytes(LARGE_BYTES + 1)).hexdigest()
    assert files["small.txt"].digests.sha256 is None
    assert files["small.txt"].digests.oid == hashlib.sha1(b"blob 3\0abc").hexdigest()
