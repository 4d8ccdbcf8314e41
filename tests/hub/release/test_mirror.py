"""`insloc pull`: from a registry on loopback into a folder, checked, gone on with, brought up to date, or nothing."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mirrors import START, mirror

from insloc_hub.errors import InslocError
from insloc_hub.models.repos import REFS, Repos, git_blob
from insloc_hub.models.zoo import Entry, add_entry
from insloc_hub.release.mirror import Promised, wanted
from insloc_hub.release.mirror import pull as pull_in_process

COMMIT = "a" * 40


def make_models(folder: Path) -> Path:
    for name, text in (("lab/one", "1"), ("lab/two", "22"), ("other/one", "333")):
        (folder / name / "parts").mkdir(parents=True)
        (folder / name / "config.json").write_text(text)
        (folder / name / "model.safetensors").write_bytes(text.encode() * 100_000)
        (folder / name / "parts/fpn head#1.bin").write_text(text)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder of three models and the URL where it is served; read it, don't write."""
    folder = make_models(tmp_path_factory.mktemp("source"))
    with mirror(folder) as (url, _):
        yield folder, url


@pytest.fixture
def pull(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`insloc pull ARGS` in a process of its own: exit code, what it printed, what it complained of."""

    def run(url: str, *words: object, **env: str) -> tuple[int, str, str]:
        clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        args = [sys.executable, "-c", START, "pull", *map(str, words)]
        everything = {
            **clean,
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **env,
        }
        done = subprocess.run(args, capture_output=True, text=True, env=everything, cwd=tmp_path, timeout=120)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def shown(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_pulled_model_is_the_one_that_is_served_and_serves_on(source, pull, tmp_path):
    folder, url = source
    commit = Repos(folder).revision("lab/one", "main").commit
    code, out, err = pull(url, "lab/one", "models")
    assert (code, err) == (0, "")
    assert out == f"lab/one main = {commit[:12]}: 3 files, 0.1 MB, 3 to fetch\n"
    names = ["config.json", "model.safetensors", "parts/fpn head#1.bin"]
    assert shown(tmp_path / "models") == sorted([f"lab/one/{REFS}", *(f"lab/one/{commit}/{name}" for name in names)])
    for name in names:
        assert (tmp_path / "models/lab/one" / commit / name).read_bytes() == (folder / "lab/one" / name).read_bytes()
    with mirror(tmp_path / "models") as (second, _):
        assert pull(second, "lab/one", "again")[0] == 0
    assert shown(tmp_path / "again") == shown(tmp_path / "models")


def test_what_is_there_is_checked_and_only_what_is_missing_or_spoilt_is_fetched(source, pull, tmp_path):
    _, url = source
    assert pull(url, "lab/one", "lab/two", "models")[0] == 0
    first = {name: (tmp_path / "models" / name).read_bytes() for name in shown(tmp_path / "models")}
    kept = next((tmp_path / "models/lab/one").glob("*/config.json"))
    before = kept.stat()
    weights = kept.with_name("model.safetensors")
    weights.write_bytes(b"2" * weights.stat().st_size)
    next((tmp_path / "models/lab/two").glob("*/config.json")).unlink()
    code, out, _ = pull(url, "lab/one", "lab/two", "models")
    assert code == 0 and [line.rsplit(", ", 1)[1] for line in out.splitlines()] == ["1 to fetch", "1 to fetch"]
    assert {name: (tmp_path / "models" / name).read_bytes() for name in shown(tmp_path / "models")} == first
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert pull(url, "lab/one", "models")[1].endswith("0 to fetch\n")


def test_a_new_commit_moves_main_and_the_old_one_can_still_be_had(tmp_path, pull):
    folder = make_models(tmp_path / "source")
    old = Repos(folder).revision("lab/one", "main").commit
    with mirror(folder) as (url, _):
        assert pull(url, "lab/one", "models")[0] == 0
        (folder / "lab/one/config.json").write_text("changed")
        assert pull(url, "lab/one", "models")[0] == 0
        new = Repos(folder).revision("lab/one", "main").commit
        assert pull(url, f"lab/two@{Repos(folder).revision('lab/two', 'main').commit}", "models")[0] == 0
    pulled = Repos(tmp_path / "models")
    assert pulled.refs("lab/one") == {"main": new}
    assert pulled.revision("lab/one", old).files["config.json"].path.read_text() == "1"
    assert json.loads((tmp_path / "models/lab/two" / REFS).read_text()) == {}  # asked for by commit: no branch is known


def test_all_of_an_author_or_of_a_search_come_each_once(source, pull, tmp_path):
    _, url = source
    assert pull(url, "--author", "lab", "lab/one", "models")[0] == 0
    assert Repos(tmp_path / "models").ids() == ["lab/one", "lab/two"]
    assert pull(url, "--search", "ONE", "searched")[0] == 0
    assert Repos(tmp_path / "searched").ids() == ["lab/one", "other/one"]


def test_one_that_fails_keeps_no_other_from_coming(source, pull, tmp_path):
    _, url = source
    code, out, err = pull(url, "lab/none", "lab/one@none", "lab/two", "models")
    assert code == 2 and Repos(tmp_path / "models").ids() == ["lab/two"]
    assert "2 of 3 failed" in err and "there is no such model" in err and "no such branch, tag or commit" in err
    assert "lab/none: failed" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "say which models, and last the folder"),
        (("models",), "no model is named before it"),
        (("one", "models"), "'one' is no model of the Hub"),
        (("lab/one@", "models"), "'lab/one@' is no model of the Hub"),
        (("../one", "models"), "'../one' is no model of the Hub"),
        (("lab/..", "models"), "'lab/..' is no model of the Hub"),
        (("lab/one", "file"), "can't write file"),
    ],
)
def test_a_pull_that_can_t_be_is_refused_before_anything_is_asked_or_made(tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InslocError, match=sentence):
        pull_in_process(*wanted(words, False, None, None), lambda line: None)
    assert shown(tmp_path) == ["file"] and not (tmp_path / "models").exists()


def test_a_search_that_finds_nothing_says_so(source, pull, tmp_path):
    code, out, err = pull(source[1], "--search", "nothing", "models")
    assert code == 2 and "the registry lists no such model" in err and out == ""
    assert not (tmp_path / "models").exists()


def test_without_a_registry_the_reason_and_the_variable_are_named(pull):
    code, _, err = pull("http://127.0.0.1:9", "lab/one", "models")
    assert code == 2 and "asked http://127.0.0.1:9; another registry: HF_ENDPOINT" in err
    code, _, err = pull("http://127.0.0.1:9", "lab/one", "models", HF_HUB_OFFLINE="1")
    assert code == 2 and "offline" in err.lower()


def test_a_token_is_sent_and_never_shown(source, pull, tmp_path):
    folder, _ = source
    with mirror(folder, INSLOC_MIRROR_TOKEN="hf_secret") as (url, _):
        code, out, err = pull(url, "lab/one", "models", HF_TOKEN="hf_wrong")
        assert code == 2 and "set HF_TOKEN" in err and "hf_" not in out + err
        code, out, err = pull(url, "lab/one", "models", HF_TOKEN="hf_secret")
        assert code == 0 and "hf_" not in out + err


def test_a_model_put_there_by_hand_is_left_alone(source, pull, tmp_path):
    shutil.copytree(source[0], tmp_path / "models")
    before = shown(tmp_path / "models")
    code, _, err = pull(source[1], "lab/one", "models")
    assert code == 2 and "put there by hand" in err and shown(tmp_path / "models") == before


class Liar(http.server.BaseHTTPRequestHandler):
    """A registry of models of one file each, which it describes as `promised` and sends as `sent`; lab/N has names[N]."""

    promised, sent, names = b"{}", b"[]", ("config.json",)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        number = re.search(r"/lab/(\d+)", self.path)
        name = self.names[int(number[1]) if number else 0]
        facts = {"rfilename": name, "size": len(self.promised), "blobId": git_blob(self.promised)}
        body = json.dumps({"id": "lab/one", "sha": COMMIT, "siblings": [facts]}).encode()
        body = body if self.path.startswith("/api/") else self.sent
        self.send_response(200)
        for key, value in (("ETag", '"x"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(body)))):
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def liar(**facts: object) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("OneLiar", (Liar,), facts))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_bytes_that_are_not_the_promised_ones_are_not_kept(pull, tmp_path):
    with liar() as url:
        code, _, err = pull(url, "lab/one", "models")
    assert code == 2 and "other bytes than" in err
    assert shown(tmp_path / "models") == [] and Repos(tmp_path / "models").ids() == []
    with liar(sent=b"{}") as url:
        assert pull(url, "lab/one", "models")[0] == 0
    assert shown(tmp_path / "models") == [f"lab/one/{REFS}", f"lab/one/{COMMIT}/config.json"]


def test_a_pull_that_was_cut_off_goes_on_with_the_files_that_are_missing(source, pull, tmp_path):
    folder, url = source
    main = Repos(folder).revision("lab/one", "main")
    part = tmp_path / f"models/lab/one/.{main.commit}.part"
    part.mkdir(parents=True)
    shutil.copy(folder / "lab/one/config.json", part)  # whole
    (part / "model.safetensors").write_bytes(b"1" * 500)  # not
    assert Repos(tmp_path / "models").ids() == []
    code, out, _ = pull(url, "lab/one", "models")
    assert code == 0 and out.endswith("2 to fetch\n")
    assert Repos(tmp_path / "models").revision("lab/one", "main").files.keys() == main.files.keys()
    assert not part.exists()


def test_a_file_name_that_leads_elsewhere_is_refused(pull, tmp_path):
    names = ["../config.json", "a/../../config.json", "/etc/config.json", "a\\..\\b", "a//b"]
    with liar(sent=b"{}", names=names) as url:
        code, _, err = pull(url, *(f"lab/{number}" for number in range(len(names))), "models/deep/er")
    assert code == 2 and "5 of 5 failed" in err and err.count("would be no good name here") == 5
    assert [name for name in shown(tmp_path) if "config.json" in name or name.endswith("b")] == []


def test_a_file_is_judged_by_size_and_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    small = Promised(name="a", size=3, sha256=None, oid=git_blob(b"abc"))
    assert small.holds(tmp_path / "a") and not small.holds(tmp_path / "b") and not small.holds(tmp_path)
    assert not Promised(name="a", size=4, sha256=None, oid=git_blob(b"abc")).holds(tmp_path / "a")
    assert not Promised(name="a", size=3, sha256="0" * 64, oid=git_blob(b"abc")).holds(tmp_path / "a")


def test_all_of_an_empty_zoo_is_said_plainly():
    with pytest.raises(InslocError, match="no model of the zoo is published yet"):
        wanted(("models",), True, None, None)


def test_all_means_every_published_model_of_the_zoo_now_and_at_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path))
    add_entry(Entry(name="insloc_resnet18.mine", origin="published", hub="lab/mine", revision=COMMIT))
    add_entry(Entry(name="insloc_resnet18.other", origin="published", hub="lab/other"))
    assert wanted(("models",), True, None, None) == (Path("models"), ["lab/mine", "lab/other", f"lab/mine@{COMMIT}"])
