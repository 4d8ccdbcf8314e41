"""Whatever is raised -> one RFC 9457 body: `application/problem+json` with a stable `code` and the way out.

`CODES` is the whole list of what a client can meet. Nothing of the server's inside is told: no paths, no tracebacks.
"""

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from insloc_hub.errors import BadBox, BadImage, InslocError

log = logging.getLogger(__name__)

CODES: dict[str, tuple[int, str]] = {
    "bad_form": (400, "The multipart form has other parts than it should"),
    "bad_json": (400, "The JSON can't be read"),
    "empty_body": (400, "The request has no body"),
    "unauthorized": (401, "The request has no key that is known here"),
    "not_found": (404, "There is no such path"),
    "model_not_found": (404, "This model is not served here"),
    "method_not_allowed": (405, "The path does not take this method"),
    "not_acceptable": (406, "The answer has none of the accepted types"),
    "receive_timeout": (408, "The request took too long to arrive"),
    "space_mismatch": (409, "The answer would be in another embedding space"),
    "body_too_large": (413, "The request is too large"),
    "image_too_large": (413, "An image has too many pixels"),
    "unsupported_image": (415, "An image is in none of the formats that are read"),
    "unsupported_media_type": (415, "The request has a type that is not read"),
    "answer_too_large": (422, "The answer would be too large"),
    "bad_aspect_ratio": (422, "An image is too long for its width"),
    "bad_box": (422, "A box has no region in its image"),
    "bad_request": (422, "The request asks for something that does not exist"),
    "empty_image": (422, "An image has no bytes"),
    "image_too_small": (422, "An image is too small"),
    "image_truncated": (422, "An image is damaged or cut short"),
    "too_many_boxes": (422, "There are too many boxes"),
    "overloaded": (429, "The server has enough to do"),
    "rate_limited": (429, "Your share of the server is in use"),
    "headers_too_large": (431, "The request line and headers are too large"),
    "inference_failed": (500, "The model failed on this request"),
    "internal": (500, "The server failed"),
    "not_ready": (503, "The server is not ready"),
    "out_of_memory": (503, "There is not enough memory for an image"),
    "too_many_connections": (503, "Too many connections are open"),
    "deadline_exceeded": (504, "The time for the answer ran out"),
    "http_error": (400, "The request can't be served"),
}
"""code -> status, title."""

MEDIA_TYPE = "application/problem+json"
BY_STATUS = {404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 413: "body_too_large"}


class Refusal(InslocError):
    """A request that is not served: `code` is one of CODES, `facts` are further members of the problem body.

    Facts in use: `index` (of the image or box), `image` (whose box it is), `limit`, `retry_after` (seconds), `errors`.
    """

    def __init__(self, code: str, detail: str, **facts: Any) -> None:
        self.code = code
        self.detail = detail
        self.facts = facts
        super().__init__(detail)


def refusal_of(error: Exception) -> Refusal:
    """What an exception means to a client; one that is not the client's doing becomes `internal`.

    >>> refusal_of(BadBox(3, "is empty")).facts
    {'index': 3}
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, BadImage):
        return Refusal(error.code if error.code in CODES else "unsupported_image", str(error))
    if isinstance(error, BadBox):
        return Refusal("bad_box", str(error), index=error.index)
    if isinstance(error, InslocError):
        return Refusal("bad_request", str(error))
    if isinstance(error, RequestValidationError | ValidationError):
        return bad_fields(list(error.errors()))
    if isinstance(error, HTTPException):
        code = BY_STATUS.get(error.status_code, "http_error")
        return Refusal(code, f"{error.detail}. The paths and their methods: GET /openapi.json")
    return Refusal("internal", "something went wrong here; it is in the server's log under the id in `instance`")


def bad_fields(problems: list[Any]) -> Refusal:
    """`bad_request` of pydantic's list of problems, with a JSON pointer each; what was sent is not repeated."""
    errors = [{"pointer": "/" + "/".join(str(part) for part in p["loc"]), "detail": str(p["msg"])} for p in problems]
    text = "; ".join(f"{e['pointer'].rsplit('/', 1)[-1] or 'the request'}: {e['detail']}" for e in errors[:3])
    return Refusal("bad_request", text.replace("Value error, ", ""), errors=errors[:20])


def problem_body(error: Refusal, instance: str) -> dict[str, Any]:
    """The members of the body, in the RFC's order."""
    status, title = CODES[error.code]
    fixed = {"type": f"urn:insloc:problem:{error.code}", "title": title, "status": status}
    facts = {name: value for name, value in error.facts.items() if value is not None}
    return {**fixed, "detail": error.detail, "instance": instance, "code": error.code, **facts}


def problem_response(error: Exception, instance: str) -> Response:
    """The answer to a request that raised `error`; `instance` is the request's id."""
    refusal = refusal_of(error)
    body = problem_body(refusal, instance)
    headers = {"x-insloc-code": refusal.code}
    if isinstance(error, HTTPException):
        body["status"] = error.status_code
        headers |= error.headers or {}
    if "retry_after" in refusal.facts:
        headers["retry-after"] = str(refusal.facts["retry_after"])
    if refusal.code == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return Response(text, body["status"], headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Replace the framework's own error bodies. What none of these catches is metrics.Observed's, the last resort."""

    async def handle(request: Request, error: Exception) -> Response:
        return problem_response(error, request.scope.get("insloc_id", ""))

    for kind in (InslocError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
