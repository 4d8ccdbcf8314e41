"""A Hub on loopback that takes uploads, as the real clients ask it (compat.md 3.6; hub_requests.txt), and gives them back.

Everything in memory: a repository is a list of commits, a commit is a table of files. It notes each request, and fails on
purpose where a test says so.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

LARGE = ".safetensors"


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)

    def add(self, files: dict[str, bytes]) -> str:
        text = json.dumps([len(self.commits), {name: blob(data) for name, data in sorted(files.items())}])
        self.commits.append((hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), files))
        return self.head


@dataclass
class Registry:
    """What the server holds and what it was asked."""

    url: str = ""
    token: str = "hf_secret"
    repos: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by sha256."""
    asked: list[str] = field(default_factory=list)
    """METHOD path, of every request."""
    leaked: list[str] = field(default_factory=list)
    """Requests to the storage that carried the token."""
    cut: str = ""
    """Close the connection in the middle of a request whose "METHOD path" this is the start of."""
    deaf: bool = False
    """Make a repository public that was asked to be private."""
    change: Any = None
    """Called once, just before a commit is taken: somebody else is quicker."""

    def create(self, repo: str, files: dict[str, bytes] | None = None, private: bool = False) -> Repository:
        self.repos[repo] = Repository(private=private)
        self.repos[repo].add(files if files is not None else {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.repos[repo]

    def count(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.asked)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, value: Any = None, body: bytes | None = None, **headers: str) -> None:
        data = body if body is not None else json.dumps(value if value is not None else {}).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        errors = {"X_Error_Code": code, "X_Error_Message": message}
        self.answer(status, {"error": message}, **{k: v for k, v in errors.items() if v}, **headers)

    def handle_any(self) -> None:
        hub, line = self.registry, f"{self.command} {self.path}"
        hub.asked.append(line)
        if hub.cut and line.startswith(hub.cut):
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path.startswith("/storage/"):
            return self.store(path, body)
        allowed = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if self.command not in ("GET", "HEAD") and path != "/api/validate-yaml" and "paths-info" not in path and not allowed:
            return self.refuse(401, "", "Invalid username or password.")
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                return getattr(self, method)(body, allowed, *map(unquote, match.groups()))
        return self.refuse(404, "", "Sorry, we can't find the page you are looking for.")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def repo(self, name: str, allowed: bool) -> Repository | None:
        found = self.registry.repos.get(name)
        if found is None or (found.private and not allowed):
            self.refuse(404, "RepoNotFound", "Repository not found")
            return None
        return found

    def make(self, body: bytes, allowed: bool) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name in self.registry.repos:
            return self.refuse(409, "", "You already created this model repo")
        if name.startswith("others/"):
            return self.refuse(403, "", "You don't have the rights to create a model under the namespace others")
        private = asked.get("visibility") == "private" or asked.get("private", False)  # newer and older clients
        self.registry.create(name, private=private and not self.registry.deaf)
        return self.answer(200, {"url": f"{self.registry.url}/{name}", "name": name, "id": "x" * 24})

    def validate(self, body: bytes, allowed: bool) -> None:
        content = json.loads(body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, allowed: bool, name: str, revision: str) -> None:
        if (repo := self.repo(name, allowed)) is None:
            return
        files = []
        for file in json.loads(body)["files"]:
            known = repo.files.get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known and blob(known)})
        self.answer(200, {"files": files, "commitOid": repo.head})

    def batch(self, body: bytes, allowed: bool, name: str) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            url = f"{self.registry.url}/storage/{one['oid']}"
            actions = {} if one["oid"] in self.registry.objects else {"actions": {"upload": {"href": url}}}
            objects.append({**one, **actions})
        self.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def store(self, path: str, body: bytes) -> None:
        if self.headers.get("Authorization"):
            self.registry.leaked.append(path)
        if hashlib.sha256(body).hexdigest() != path.rpartition("/")[2]:
            return self.refuse(400, "", "other bytes than announced")
        self.registry.objects[path.rpartition("/")[2]] = body
        return self.answer(200)

    def commit(self, body: bytes, allowed: bool, name: str, revision: str) -> None:
        if (repo := self.repo(name, allowed)) is None:
            return None
        if self.registry.change:
            self.registry.change()
            self.registry.change = None
        lines = [json.loads(line) for line in body.splitlines() if line]
        files = dict(repo.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, repo.head):
                return self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.registry.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.add(files)
        return self.answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.registry.url}/{name}/commit/{oid}"})

    def info(self, body: bytes, allowed: bool, name: str, revision: str = "main") -> None:
        if (repo := self.repo(name, allowed)) is None:
            return None
        if (found := repo.at(revision)) is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        siblings = [sibling(path, data) for path, data in found[1].items()]
        return self.answer(200, {"id": name, "sha": found[0], "private": repo.private, "siblings": siblings})

    def tree(self, body: bytes, allowed: bool, name: str, revision: str) -> None:
        if (repo := self.repo(name, allowed)) is None:
            return None
        if (found := repo.at(revision)) is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        return self.answer(200, [entry(path, data) for path, data in found[1].items()])

    def paths_info(self, body: bytes, allowed: bool, name: str, revision: str) -> None:
        if (repo := self.repo(name, allowed)) is not None:
            paths = parse_qs(body.decode()).get("paths", [])
            self.answer(200, [entry(path, repo.files[path]) for path in paths if path in repo.files])

    def resolve(self, body: bytes, allowed: bool, name: str, revision: str, path: str) -> None:
        if (repo := self.repo(name, allowed)) is None:
            return None
        if (found := repo.at(revision)) is None:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        commit, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
        data = files[path]
        digest = hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else blob(data)
        return self.answer(200, body=data, ETag=f'"{digest}"', X_Repo_Commit=commit, Content_Type="application/octet-stream")


ROUTES = {
    "/api/repos/create": "make",
    "/api/validate-yaml": "validate",
    "/api/models/([^/]+/[^/]+)/preupload/(.+)": "preupload",
    "/api/models/([^/]+/[^/]+)/commit/(.+)": "commit",
    "/api/models/([^/]+/[^/]+)/revision/(.+)": "info",
    "/api/models/([^/]+/[^/]+)/tree/([^/]+)": "tree",
    "/api/models/([^/]+/[^/]+)/paths-info/(.+)": "paths_info",
    "/api/models/([^/]+/[^/]+)": "info",
    r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": "batch",
    "/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": "resolve",
}


def entry(path: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob(data)}
    if path.endswith(LARGE):
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return found


def sibling(path: str, data: bytes) -> dict[str, Any]:
    """As `entry`, in the words of model_info(files_metadata=True)."""
    found = entry(path, data)
    large = {"lfs": {"sha256": found["lfs"]["oid"], **found["lfs"]}} if "lfs" in found else {}
    return {"rfilename": path, "size": len(data), "blobId": found["oid"], **large}


@contextmanager
def registry() -> Iterator[Registry]:
    """A registry at a free port of this machine, until the end of the block."""
    hub = Registry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"registry": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
