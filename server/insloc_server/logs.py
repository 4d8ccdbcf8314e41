"""The log on stderr: lines for people, or JSON lines for machines. Never what a client sent but its request id and traceparent.

A log that can't be written (a full disk behind a pipe) loses lines, which are counted, and no request.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, TextIO

PEOPLE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

requests = logging.getLogger("insloc_server.requests")
"""A record for each request that is answered; with the JSON form only."""

request_facts: ContextVar[Mapping[str, Any]] = ContextVar("request_facts", default=MappingProxyType({}))
"""What each line that is written within a request says of it."""


class Lines(logging.StreamHandler[TextIO]):
    """Writes lines, or counts them as `dropped` where they can't be written."""

    dropped = 0

    def handleError(self, record: logging.LogRecord) -> None:
        """A line is lost; nothing else happens."""
        Lines.dropped += 1


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the request's facts, the record's own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **request_facts.get(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=True, default=str)  # ASCII: a line stays a line


def configure(form: Literal["text", "json"], stream: Any = None) -> None:
    """Send every log of the process to `stream` (stderr) in that form."""
    handler = Lines(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(PEOPLE))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    requests.setLevel(logging.INFO if form == "json" else logging.WARNING)


def trace_of(traceparent: str) -> dict[str, str]:
    """The W3C trace context of a request for its log lines, if it is one.

    >>> trace_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").keys(), trace_of("x")
    (dict_keys(['traceparent']), {})
    """
    return {"traceparent": traceparent} if TRACEPARENT.fullmatch(traceparent) else {}
