"""The mirror as the real clients see it: huggingface_hub, stock timm and our loader, over loopback."""

import hashlib
import random
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mirrors import START, client, mirror, publish
from safetensors.torch import load_file

from insloc_hub.files import sha256_file
from insloc_hub.models.repos import Repos


def alter(weights: Path) -> None:
    """Another last byte, the same size: no client can see it by the length."""
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models as they were published, one of which was altered afterwards."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("lab/altered", "lab/tiny", "other/tiny"):
        publish(folder / name)
    alter(folder / "lab/altered/model.safetensors")
    (folder / "lab/notes.txt").write_text("not a model")
    return folder


RAISED = {
    "no_repo": "RepositoryNotFoundError",
    "no_file": "RemoteEntryNotFoundError",
    "no_revision": "RevisionNotFoundError",
    "no_snapshot": "RepositoryNotFoundError",
    "no_snapshot_revision": "RevisionNotFoundError",
    "no_info": "RepositoryNotFoundError",
    "upload": "HfHubHTTPError",
    "whoami": "HfHubHTTPError",
}


def check_hub_client(models: Path, home: Path, first_path: Path | None = None) -> str:
    """All of huggingface_hub's calls, the last ones without a mirror; its version."""
    tiny = Repos(models).revision("lab/tiny", "main")
    with mirror(models) as (url, process):

        def stop() -> None:
            process.terminate()
            assert process.wait(20) == 0

        found = client("hub", url, home, talk=stop, first_path=first_path)
    weights = sha256_file(models / "lab/tiny/model.safetensors")
    names = ["README.md", "config.json", "model.safetensors", "parts/fpn head#1.json"]
    assert found["list"] == ["lab/altered", "lab/tiny", "other/tiny"]
    assert (found["author"], found["search"], found["nothing"]) == (["lab/altered"], ["lab/tiny", "other/tiny"], [])
    tags = ["dataset:imagenet-1k", "image-feature-extraction", "insloc", "license:apache-2.0", "timm"]
    assert found["info"] == ["lab/tiny", tiny.commit, "timm", "image-feature-extraction", "apache-2.0", tags]
    assert found["metric"] == 0.5 and found["by_sha"] == tiny.commit and found["refs"] == [["main", tiny.commit]]
    blobs = {"model.safetensors": weights}
    for name in ("README.md", "config.json", "parts/fpn head#1.json"):
        data = (models / "lab/tiny" / name).read_bytes()
        blobs[name] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # git's definition
    sizes = [(models / "lab/tiny" / name).stat().st_size for name in names]
    assert found["siblings"] == [[name, size, blobs[name]] for name, size in zip(names, sizes, strict=True)]
    assert (found["exists"], found["file_exists"]) == ([True, False, False], [True, False])
    assert (sorted(found["paths"]), found["tree"]) == (["config.json", "parts"], [*names[:3], "parts", names[3]])
    assert found["top"] == [*names[:3], "parts"]
    assert found["file"] == [weights, tiny.commit] and found["odd"] == hashlib.sha256(b"{}").hexdigest()
    assert found["snapshot"] == names and found["snapshot_by_sha"] and found["metadata"]
    assert found["lengths"] == sizes and min(sizes) > 0
    for what, kind in RAISED.items():
        assert found[what]["raised"][0] == kind, (what, found[what])
    assert "read-only" in found["upload"]["says"]
    assert found["later_file"] and found["later_snapshot"]
    return found["version"]


def test_the_hub_s_client_finds_all_it_asks_for_and_its_cache_serves_it_afterwards(models, tmp_path):
    check_hub_client(models, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", ["huggingface_hub==1.5.*", "huggingface_hub<2", "huggingface_hub>=2,<3"])
def test_every_line_of_the_hub_s_client_and_timm_on_it_find_the_same(models, exported_run, tmp_path, bounds):
    where = tmp_path / "packages"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", where, bounds],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"needs a package index for {bounds}: {done.stderr[-200:]}")
    version = check_hub_client(models, tmp_path / "hub", where)
    assert version.startswith(bounds[17:20] if "==" in bounds else "1." if "<2" in bounds else "2.")
    check_stock_timm(exported_run / "model", tmp_path / "timm", where)


def check_stock_timm(export: Path, home: Path, first_path: Path | None = None) -> None:
    """timm alone, by branch and by commit, with the mirror and after it."""
    shutil.copytree(export, home / "models/lab/exported")
    tensors = load_file(export / "model.safetensors")
    wanted = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    with mirror(home / "models") as (url, process):

        def stop() -> None:
            process.terminate()
            assert process.wait(20) == 0

        found = client("stock", url, home, talk=stop, first_path=first_path)
    assert found == {"first": wanted, "by_commit": wanted, "later": wanted}


def test_stock_timm_loads_the_run_s_export_bit_for_bit_and_again_with_the_mirror_gone(exported_run, tmp_path):
    check_stock_timm(exported_run / "model", tmp_path)


class Cutter(socketserver.StreamRequestHandler):
    """Between client and mirror, a request a connection; the first long answer is cut in its middle."""

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        asked = self.server.asked  # type: ignore[attr-defined]
        asked.append(head.lower())
        with socket.create_connection(self.server.behind) as behind:  # type: ignore[attr-defined]
            behind.sendall(re.sub(rb"(?i)connection: .*\r\n", b"", head) + b"Connection: close\r\n\r\n")
            left = 25_000_000 if head.startswith(b"GET ") and not any(b"range:" in one for one in asked) else 1 << 40
            while left > 0 and (data := behind.recv(min(left, 65536))):
                self.wfile.write(data)
                left -= len(data)


def test_a_download_that_was_cut_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "models/lab/large").mkdir(parents=True)
    weights = tmp_path / "models/lab/large/model.safetensors"
    weights.write_bytes(random.Random(0).randbytes(40_000_000))
    with mirror(tmp_path / "models") as (url, _), socketserver.ThreadingTCPServer(("127.0.0.1", 0), Cutter) as cutter:
        cutter.behind, cutter.asked = (urlsplit(url).hostname, urlsplit(url).port), []
        threading.Thread(target=cutter.serve_forever).start()
        try:
            found = client("large", f"http://127.0.0.1:{cutter.server_address[1]}", tmp_path / "home")
        finally:
            cutter.shutdown()
    assert found["sha256"] == sha256_file(weights)
    starts = [int(part[1]) for head in cutter.asked if (part := re.search(rb"range: bytes=(\d+)-", head))]
    assert len(starts) == 1 and 10_000_000 < starts[0] <= 25_000_000


@pytest.mark.slow  # tests/hub/models/test_create.py has the same in its own process, from the client's cache
def test_our_loader_refuses_a_model_with_one_bit_turned(models, tmp_path):
    with mirror(models) as (url, _):
        found = client("ours", url, tmp_path)
    assert len(set(found["good"])) == 1
    assert found["altered"]["raised"][0] == "BadSpec" and "sha256 is not the one in config.json" in found["altered"]["says"]


def test_a_token_opens_the_mirror_and_nothing_else_does(models, tmp_path):
    (tmp_path / "token.txt").write_text("hf_secret\n")
    with mirror(models, "--token-file", str(tmp_path / "token.txt")) as (url, _):
        wrong = client("token", url, tmp_path / "b", HF_TOKEN="hf_wrong")
        right = client("token", url, tmp_path / "c", HF_TOKEN="hf_secret")
    assert all("GatedRepoError" in one["raised"] and "RepositoryNotFoundError" in one["raised"] for one in wrong.values())
    assert "set HF_TOKEN" in wrong["file"]["says"] and "hf_" not in wrong["file"]["says"]
    assert right["info"] == "lab/tiny" and len(right["list"]) == 3
    assert right["file"] == sha256_file(models / "lab/tiny/config.json")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_mirror_with_zero_and_frees_the_port(models, number):
    with mirror(models) as (url, process):
        assert urllib.request.urlopen(url).read() == b"lab/altered\nlab/tiny\nother/tiny\n"
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5)


def said(*words: str) -> str:
    done = subprocess.run([sys.executable, "-c", START, *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    return done.stderr


def test_a_taken_port_is_said_at_once_with_the_way_out(models):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert f"port {port}: another program has it; choose one with --port (0 takes a free one)" in said(
            "mirror", str(models), "--port", port
        )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere: no such folder; fill one with: insloc pull"),
        ([".", "--token-file", "nowhere.txt"], "token file nowhere.txt: No such file"),
        ([".", "--host", "192.0.2.1"], "can't listen on 192.0.2.1"),
    ],
)
def test_a_mirror_that_can_t_be_is_refused_in_a_sentence(words, sentence):
    assert sentence in said("mirror", *words)


def test_the_help_is_there_at_once():
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", START, "mirror", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "HF_ENDPOINT" in done.stdout
    assert time.monotonic() - start < 5
