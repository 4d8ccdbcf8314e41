"""A server for the tests of the client and of starting and stopping: what it does with a request stands in its path.

python toy_server.py PORT [stubborn|failing]
"""

import http.server
import json
import os
import signal
import sys
import time

STALL_S = 0.2


class Handler(http.server.BaseHTTPRequestHandler):
    """/ok, /slow, /refuse, /never; /count tells how many connections there were."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        super().setup()
        Handler.connections += 1

    def do_GET(self) -> None:
        self.answer(200, {"connections": Handler.connections})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/slow":
            time.sleep(STALL_S)
        if self.path == "/never":
            time.sleep(20)
        vector = [len(body), float(self.headers.get("x-deadline-ms", 0)), 1.0]
        self.answer(429 if self.path == "/refuse" else 200, {"pooled": vector})

    def answer(self, status: int, said: object) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    if "failing" in sys.argv:
        sys.exit("the model is not there")
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:  # as LitServe's workers, it outlives its parent
            while True:
                time.sleep(1)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
