"""The table of serving.md section 4, where no other file has the row: each promise is a number here."""

import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from wire import QUICK, connect, head, metric, read, send, status, upload, wait_for

from insloc_hub import load
from insloc_server import connection
from insloc_server.serve import running

KIND = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def url(extractor, make_settings):
    with running(make_settings(queue_images=256), extractor) as url:
        yield url


def whole(image, path=QUICK, kind="image/png"):
    return head("POST", path, content_type=kind, content_length=len(image)) + image


def memory():
    """Resident bytes of this process, which is the server's, too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def test_bad_images_cost_their_neighbours_nothing(url, picture, packed):
    """12 rounds of 16 requests at once, one of them a truncated JPEG: 0 of the 180 good ones fail."""
    good = packed(picture, "JPEG")
    with ThreadPoolExecutor(16) as pool:
        for number in range(12):
            files = [good[:-300] if i == number else good for i in range(16)]
            answers = list(pool.map(lambda data: send(url, whole(data, kind="image/jpeg"), 60)[0], files))
            assert [answers[i] for i in range(16) if i != number] == [200] * 15
            assert answers[number] == 422


@linux
@pytest.mark.parametrize("chunked", [False, True])
def test_300_mib_leave_nothing_in_memory(url, chunked, monkeypatch):
    monkeypatch.setattr(connection, "LINGER_S", 60)
    block = bytes(1024 * 1024)
    piece = b"%x\r\n" % len(block) + block + b"\r\n" if chunked else block
    send(url, head("GET", "/livez"))
    before, most = memory(), 0
    fields = {"transfer_encoding": "chunked"} if chunked else {"content_length": 300 * len(block)}
    with connect(url, 30) as client:
        client.sendall(head(content_type="image/png", **fields))
        for _ in range(300):
            client.sendall(piece)
            most = max(most, memory())
        assert read(client)[0] == 413
    assert most - before < (20 if chunked else 4) * len(block)


@linux
def test_a_decompression_bomb_is_refused_from_its_header(url, packed):
    bomb = packed(Image.new("1", (12_000, 12_000)))
    assert len(bomb) < 200_000
    send(url, whole(bomb))
    before = memory()
    assert send(url, whole(bomb))[0] == 413
    assert memory() - before < 5 * 1024 * 1024


@linux
def test_a_thousand_clients_that_hang_up_leave_nothing_behind(url, png):
    def hang_up(number):
        with connect(url) as client:
            data = whole(png)
            client.sendall(data if number % 2 else data[: len(data) // 2])

    def held():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    for number in range(50):
        hang_up(number)
    wait_for(lambda: metric(url, "insloc_queue_images") == 0, 60)
    files, threads = held()
    before = memory()
    for number in range(1000):
        hang_up(number)
    wait_for(lambda: status(url, "/metrics") == 200, 60)
    wait_for(lambda: metric(url, "insloc_queue_images") == 0 and metric(url, "insloc_queue_bytes") == 0, 60)
    wait_for(lambda: held()[0] <= files + 3, 30)
    assert held()[1] <= threads + 1
    assert memory() - before < 32 * 1024 * 1024
    assert send(url, whole(png))[0] == 200


def test_an_upload_needs_no_disk(url, picture, packed, monkeypatch):
    large = packed(picture.resize((1500, 1500)), "BMP")  # others put what is over 1 MiB into a file
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + large + b"\r\n--b--\r\n"
    request = head(content_type="multipart/form-data; boundary=b", content_length=len(body)) + body
    assert len(large) > 6_000_000 and send(url, request, 60)[0] == 200


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_makes_nothing_late(url, png, monkeypatch, hours):
    now = time.time
    client = upload(url, png, QUICK)
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * hours)
    client.send(png[-10:])
    assert client.getresponse().status == 200
    client.close()
    assert send(url, whole(png))[0] == 200


def test_a_model_whose_file_is_replaced_stays_what_it_was(make_settings, tmp_path, png):
    folder = tmp_path / "model"
    timm.models.save_for_hf(timm.create_model("resnet18", num_classes=0), str(folder), safe_serialization=True)
    with running(make_settings(), load(f"local-dir:{folder}", "cpu")) as url:
        first, revision = (read_vector(url, png), send(url, whole(png))[1]["x-model-revision"])
        (folder / "model.safetensors").write_bytes(b"\0" * (folder / "model.safetensors").stat().st_size)
        assert np.array_equal(read_vector(url, png), first)
        shutil.rmtree(folder)
        assert np.array_equal(read_vector(url, png), first)
        assert send(url, whole(png))[1]["x-model-revision"] == revision


def read_vector(url, png):
    path = "/v1/features?transform=whole:32&deterministic=true"
    data = head("POST", path, content_type="image/png", content_length=len(png), accept="application/x-npy") + png
    answered, _, body = send(url, data)
    assert answered == 200
    return np.frombuffer(body[-512 * 4 :], "<f4")


def test_every_answer_is_one_of_those_that_are_promised(url, png, picture, packed):
    """Odd requests beside good ones, all at once: each gets its own answer, and the server is ready afterwards."""
    odd = {
        b"": 400,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>": 415,
        b"%!PS-Adobe-3.0 EPSF-3.0\n": 415,
        os.urandom(5000): 415,
        png[:-400]: 422,
        packed(Image.new("RGB", (1, 1))): 422,
        packed(Image.new("RGB", (50_000, 1))): 422,
    }
    asked = [*odd.items(), *[(png, 200)] * 9] * 4
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda pair: send(url, whole(pair[0]), 60)[0], asked))
    assert Counter(got) == Counter(wanted for _, wanted in asked) and got == [wanted for _, wanted in asked]
    assert status(url, "/readyz") == 200
