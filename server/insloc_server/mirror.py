"""A read-only Hub registry over a folder, for networks without the Hub: what HF_ENDPOINT may point to (compat.md 3).

One ASGI function. A path is split before it is decoded, since a revision may hold an escaped slash; each piece is then
compared with what is listed (insloc_hub/models/repos.py), so no request can name a file that is not a model's.
"""

import hmac
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from insloc_hub.errors import BadData
from insloc_hub.models.repos import MAIN, Repos, Revision
from insloc_server.mirror_answers import listed, model_facts, path_entries, tree_entries
from insloc_server.process import bound, until_stopped, url_of
from insloc_server.settings import mirror_token

log = logging.getLogger(__name__)

PAGE = 1000  # entries of a list in one answer, as the Hub
MOST_FORM_BYTES = 1024 * 1024
DRAIN_S = 10  # at the end, time for downloads in work

Query = dict[str, list[str]]


class Refused(Exception):
    """An answer that is an error: status, the Hub's code for it, a sentence, and headers besides."""

    def __init__(self, status: int, code: str, problem: str, **headers: str) -> None:
        self.status, self.problem = status, problem
        # A generic 404 without the code would be read as "no connection" (compat.md 3.4).
        self.headers = {"X-Error-Code": code} if code else {}
        self.headers |= {"X-Error-Message": problem} | {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(problem)


def serve(folder: Path, host: str, port: int, token_file: Path | None, say: Callable[[str], None]) -> None:
    """Serve the models of `folder` until SIGTERM or Ctrl-C; `say` gets the line that a person waits for. InslocError."""
    if not folder.is_dir():
        raise BadData(folder, "no such folder; fill one with: insloc pull ORG/NAME FOLDER")
    token = mirror_token(token_file)
    repos = Repos(folder.resolve())
    with until_stopped(), bound(host, port) as listener:
        models = list_models(repos, {})  # hashes now what the first client would have to wait for
        say(f"serving {len(models)} models of {folder} at {url_of(listener)}{' to who has the token' if token else ''}")
        config = uvicorn.Config(
            create_mirror(repos, token),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


def create_mirror(repos: Repos, token: str | None = None, page: int = PAGE) -> ASGIApp:
    """The registry as an ASGI app: GET and HEAD for everything, POST for paths-info."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            check_token(request, token)
            form = await read_form(request)
            response = await run_in_threadpool(answer, request, repos, form, page)
        except Refused as refused:
            body = json.dumps({"error": refused.problem})
            response = Response(body, refused.status, refused.headers, "application/json")
        except OSError as error:
            log.warning("%s: %s", scope["path"], error)
            response = Response("{}", 403, {"X-Error-Message": "the mirror can't read its files"}, "application/json")
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    return app


def check_token(request: Request, token: str | None) -> None:
    """Refused: 401 where a token is asked for and another one, or none, was sent; nothing is looked up before."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else ""
    if token is not None and not hmac.compare_digest(given.encode("latin-1", "replace"), token.encode()):
        # The client's GatedRepoError, a RepositoryNotFoundError, is the one that tells of a token.
        problem = "this mirror asks for its token: set HF_TOKEN"
        raise Refused(401, "GatedRepo", problem, WWW_Authenticate="Bearer")


async def read_form(request: Request) -> Query:
    """The body of paths-info's POST, {} for any other request. Refused: a method that would write, or a body too long."""
    if request.method in ("GET", "HEAD"):
        return {}
    if request.method != "POST" or "/paths-info/" not in request.scope["path"]:
        raise Refused(405, "", "this is a read-only mirror", Allow="GET, HEAD")
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_FORM_BYTES:
            raise Refused(413, "", "the list of paths is too long")
    return parse_qs(data.decode("utf-8", "replace"))


def answer(request: Request, repos: Repos, form: Query, page: int) -> Response:
    """The one place where a path gets its meaning. Refused, OSError."""
    query = parse_qs(request.scope["query_string"].decode("latin-1"))
    match path_pieces(request.scope):
        case [""]:
            return PlainTextResponse("".join(f"{repo}\n" for repo in repos.ids()))
        case ["api", "models"]:
            return paged(request, list_models(repos, query), int_of(query, "limit", page), query)
        case ["api", "models", org, name]:
            return as_json(model_facts(find(repos, org, name, MAIN), blobs="true" in query.get("blobs", [])))
        case ["api", "models", org, name, "revision", revision]:
            return as_json(model_facts(find(repos, org, name, revision), blobs="true" in query.get("blobs", [])))
        case ["api", "models", org, name, "tree", revision, *below]:
            found = find(repos, org, name, revision)
            entries = tree_entries(found, "/".join(below).strip("/"), recursive="true" in query.get("recursive", []))
            if entries is None:
                raise no_entry(found)
            return paged(request, entries, page, query)
        case ["api", "models", org, name, "paths-info", revision] if request.method == "POST":
            return as_json(path_entries(find(repos, org, name, revision), form.get("paths", [])))
        case ["api", "models", org, name, "refs"]:
            return as_json(list_refs(repos, f"{org}/{name}"))
        case ["api", "whoami-v2"]:
            raise Refused(401, "", "a mirror has no accounts")
        case ["api", "models" | "datasets" | "spaces", *_]:
            raise Refused(404, "RepoNotFound", "Repository not found")
        case ["api", *_]:
            raise Refused(404, "", "not found")
        case [org, name, "resolve", revision, *path] if path:
            return file_answer(find(repos, org, name, revision), "/".join(path))
    raise Refused(404, "RepoNotFound", "Repository not found")


def path_pieces(scope: Scope) -> list[str]:
    """The pieces between the slashes of a request's path, decoded one by one; bytes that are no text match nothing."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return [unquote(piece, errors="replace") for piece in raw.split(b"?")[0].decode("latin-1").removeprefix("/").split("/")]


def find(repos: Repos, org: str, name: str, revision: str) -> Revision:
    """A repository at a revision. Refused: RepoNotFound, RevisionNotFound."""
    repo = f"{org}/{name}"
    if not repos.refs(repo):
        raise Refused(404, "RepoNotFound", "Repository not found")
    found = repos.revision(repo, revision)
    if found is None:
        raise Refused(404, "RevisionNotFound", "Invalid rev id")
    return found


def file_answer(revision: Revision, name: str) -> Response:
    """A file, streamed in pieces: whole, or the range that is asked for. Refused: EntryNotFound."""
    file = revision.files.get(name)
    if file is None:
        raise no_entry(revision)
    etag = f'"{file.digests.sha256 or file.digests.oid}"'
    headers = {"X-Repo-Commit": revision.commit, "ETag": etag, "Accept-Ranges": "bytes"}
    if file.digests.sha256:
        headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(file.stat.st_size)}
    # The size that belongs to the digests, also for HEAD: a length of 0 there would store an empty file (compat.md 3.2).
    return FileResponse(file.path, headers=headers, media_type="application/octet-stream", stat_result=file.stat)


def no_entry(revision: Revision) -> Refused:
    """The commit is sent too, so that the client remembers the absence."""
    return Refused(404, "EntryNotFound", "Entry not found", X_Repo_Commit=revision.commit)


def list_refs(repos: Repos, repo: str) -> dict[str, Any]:
    """Branches and their commits. Refused: RepoNotFound."""
    org, name = repo.split("/", 1)
    commits = {branch: find(repos, org, name, branch).commit for branch in repos.refs(repo) or [MAIN]}
    branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in commits.items()]
    return {"branches": branches, "tags": [], "converts": []}


def list_models(repos: Repos, query: Query) -> list[dict[str, Any]]:
    """The models that a query lets through, by name, or the last changed first; without files and card unless asked for."""
    found = []
    for repo in repos.ids():
        try:
            revision = repos.revision(repo, MAIN if MAIN in repos.refs(repo) else next(iter(repos.refs(repo)), MAIN))
        except OSError as error:
            log.warning("%s can't be read, so it is not listed: %s", repo, error)
            continue
        if revision is not None and listed(facts := model_facts(revision), query):
            hidden = [] if "true" in query.get("full", []) else ["siblings"]
            hidden += [] if "true" in query.get("cardData", []) else ["cardData"]
            found.append({key: value for key, value in facts.items() if key not in hidden})
    if query.get("sort", [""])[0] in ("lastModified", "createdAt"):
        found.sort(key=lambda facts: facts["lastModified"], reverse=True)
    return found


def paged(request: Request, entries: list[dict[str, Any]], size: int, query: Query) -> Response:
    """One page of a list, with a Link to the next one where there is more (compat.md 3.5)."""
    start = int_of(query, "cursor", 0, least=0)
    response = as_json(entries[start : start + size])
    if start + size < len(entries):
        host = request.headers.get("host", "")
        path = (request.scope.get("raw_path") or b"/").split(b"?")[0].decode("latin-1")
        more = urlencode({**query, "cursor": [str(start + size)]}, doseq=True)
        if re.fullmatch(r"[\w.:\[\]-]+", host):
            response.headers["Link"] = f'<{request.scope["scheme"]}://{host}{path}?{more}>; rel="next"'
    return response


def int_of(query: Query, name: str, default: int, least: int = 1) -> int:
    """A number in a query. Refused: it is none, or too small."""
    text = query.get(name, [str(default)])[0]
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise Refused(400, "", f"{name} must be a whole number from {least}")
    return int(text)


def as_json(value: Any) -> Response:
    """A JSON answer."""
    return Response(json.dumps(value), media_type="application/json")
