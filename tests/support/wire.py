"""A server as a client on a socket sees it: raw bytes out, the answer back; its counters."""

import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

QUICK = "/v1/features?transform=whole:32"


def connect(url: str, wait: float = 10.0) -> socket.socket:
    """A connection to the server at `url`."""
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=wait)


def head(method: str = "POST", path: str = "/v1/features", **fields: object) -> bytes:
    """The line and headers of a request; `content_length=5` is Content-Length: 5."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read(connection: socket.socket) -> tuple[int, Any, bytes]:
    """Status, headers and body of the next answer; nothing of a further one is taken off the connection."""
    file = connection.makefile("rb", buffering=0)
    status = int(_line(file).split()[1])
    lines = []
    while (line := _line(file)) != b"\r\n":
        lines.append(line)
    headers = http.client.parse_headers(io.BytesIO(b"".join(lines)))
    body = b""
    while len(body) < int(headers["content-length"]):
        body += file.read(int(headers["content-length"]) - len(body)) or _ended()
    return status, headers, body


def _line(file: Any) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += file.read(1) or _ended()
    return line


def _ended() -> bytes:
    raise ConnectionError("the server closed the connection within an answer")


def send(url: str, data: bytes, wait: float = 10.0) -> tuple[int, Any, bytes]:
    """The answer to raw bytes."""
    with connect(url, wait) as connection:
        connection.sendall(data)
        return read(connection)


def ask(url: str, image: bytes, path: str = "/v1/features", **headers: str) -> Any:
    """The JSON answer to one image."""
    request = urllib.request.Request(url + path, data=image, headers={"content-type": "image/png", **headers})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def upload(url: str, data: bytes, path: str = "/v1/features") -> http.client.HTTPConnection:
    """A request whose last ten bytes are still to come."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.putrequest("POST", path)
    connection.putheader("content-type", "image/png")
    connection.putheader("content-length", str(len(data)))
    connection.endheaders()
    connection.send(data[:-10])
    time.sleep(0.3)  # the server has it and waits
    return connection


def status(url: str, path: str) -> int:
    """Status of a GET; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(url + path, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextmanager
def command(folder: Path, *words: str, model: str = "random:resnet18@1") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`insloc-server` in a process of its own, which must have ended when the block does: the process and its URL.

    What it says is in FOLDER/server.log: a pipe that nobody reads would fill and stop it.
    """
    line = [sys.executable, "-m", "insloc_server.cli", "--model", model, "--port", "0", "--device", "cpu", *words]
    log = folder / "server.log"
    with log.open("wb") as stderr, subprocess.Popen(line, stderr=stderr, text=True, cwd=folder) as process:
        try:
            wait_for(lambda: process.poll() is not None or f"serving {model} at" in log.read_text(), 200)
            said = log.read_text()
            assert f"serving {model} at http://127.0.0.1:" in said, said
            url = said.split(" at ")[1].split()[0].rstrip('"},\n')
            wait_for(lambda: status(url, "/readyz") == 200, 60)
            yield process, url
            assert process.poll() is not None
        finally:
            process.kill()
    assert status(url, "/livez") == 0


def said_since(folder: Path) -> list[str]:
    """The lines that `command` has written to its log since it serves."""
    lines = (folder / "server.log").read_text(encoding="utf-8").splitlines()
    return lines[1 + next(number for number, line in enumerate(lines) if "serving " in line) :]


def metric(url: str, name: str) -> float | None:
    """A sample of /metrics, by its name with labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name), None)


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once `condition()` is true. AssertionError: it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Load:
    """Clients that ask until they are turned away, or `stop` is set; every request is counted, with what became of it."""

    def __init__(self, url: str, png: bytes, clients: int, keep: bool, path: str = QUICK) -> None:
        self.url, self.png, self.keep, self.path = url, png, keep, path
        self.answered, self.lost = 0, list[str]()
        self.statuses = set[int]()
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self) -> None:
        kept: http.client.HTTPConnection | None = None
        while not self.stop.is_set():
            connection = kept or http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
            try:
                connection.connect() if kept is None else None
            except OSError:
                return  # turned away at the door
            try:
                connection.request("POST", self.path, self.png, {"content-type": "image/png"})
                response = connection.getresponse()
                response.read()
            except OSError as error:
                with self.lock:
                    self.lost.append(repr(error))
                return
            with self.lock:
                self.answered += 1
                self.statuses.add(response.status)
            kept = connection if self.keep and response.headers.get("connection") != "close" else connection.close()
