"""Counts and times of requests, for Prometheus; and the request's id. Labels come from closed sets only.

One registry per app, so that a process may hold several.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from insloc_server.logs import Lines, request_facts, trace_of
from insloc_server.logs import requests as log_requests
from insloc_server.problems import Refusal, problem_response

log = logging.getLogger(__name__)

ROUTES = ("/v1/features", "/v1/embeddings", "/v1/models", "/livez", "/startupz", "/readyz", "/metrics", "/openapi.json", "/v2")
STAGES = ("recv", "decode", "queue", "infer", "encode")
SIZES = (1, 2, 4, 8, 16, 32)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BUSY = ("overloaded", "rate_limited", "not_ready", "too_many_connections", "deadline_exceeded", "out_of_memory")
QUIET = ("/livez", "/startupz", "/readyz", "/metrics", "/v2")  # asked every few seconds; logged if something is wrong
ID = re.compile(r"[!-~]{1,64}")  # printable and short enough to repeat


class Metrics:
    """The app's counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "insloc_requests", "Requests answered, by route and outcome.", ["route", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "insloc_request_seconds", "Time to answer.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.stages = Histogram(
            "insloc_stage_seconds", "Time in a stage of /v1/features.", ["stage"], buckets=SECONDS, registry=self.registry
        )
        self.images = Counter("insloc_images", "Images answered.", registry=self.registry)
        self.boxes = Counter("insloc_boxes", "Boxes answered.", registry=self.registry)
        self.in_work = Gauge("insloc_queue_images", "Images in work or waiting.", registry=self.registry)
        self.oldest = Gauge("insloc_queue_oldest_seconds", "Age of the oldest waiting request.", registry=self.registry)
        self.rejected = Counter("insloc_rejected", "Requests refused for load.", ["code"], registry=self.registry)
        self.cancelled = Counter("insloc_cancelled", "Requests whose client went away first.", registry=self.registry)
        self.bytes = Gauge("insloc_queue_bytes", "Bytes of requests in work.", registry=self.registry)
        self.restarts = Gauge("insloc_worker_restarts_total", "Workers that died and were replaced.", registry=self.registry)
        self.dropped = Gauge("insloc_log_lines_dropped", "Log lines that could not be written.", registry=self.registry)
        self.dropped.set_function(lambda: float(Lines.dropped))
        self.batches = Histogram(
            "insloc_batch_images", "Images that were computed together.", buckets=SIZES, registry=self.registry
        )
        self.model = Gauge("insloc_model_info", "A model that is loaded.", ["model", "revision"], registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, in_work: Callable[[], float], oldest_s: Callable[[], float]) -> None:
        """Read the queue from here on."""
        self.in_work.set_function(in_work)
        self.oldest.set_function(oldest_s)

    def answered(self, images: int, boxes: int) -> None:
        """A request's images and boxes were answered."""
        self.images.inc(images)
        self.boxes.inc(boxes)

    def cut_off(self, code: str) -> None:
        """A connection was answered and closed before there was a whole request."""
        self.requests.labels("other", code).inc()

    def text(self, loaded: Iterable[tuple[str, str]] = ()) -> bytes:
        """Everything, in Prometheus's text format, with the name and the sha256 of each model that is loaded now."""
        self.model.clear()
        for name, sha256 in loaded:
            self.model.labels(name, sha256).set(1)
        return generate_latest(self.registry)


class Stages:
    """Stopwatch of one request: `mark` ends a stage that began where the last one ended."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.since = time.monotonic()
        self.taken: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        """The stage ends now."""
        now = time.monotonic()
        self.add(stage, now - self.since)

    def add(self, stage: str, seconds: float) -> None:
        """The stage took this long and the next one begins now."""
        self.since = time.monotonic()
        self.taken[stage] = seconds
        self.metrics.stages.labels(stage).observe(seconds)

    def header(self) -> str:
        """Value of Server-Timing, in milliseconds."""
        return ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in self.taken.items())


class Observed:
    """The outermost layer: gives a request its id, counts it, and answers for what nothing else has caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (or the app's life, which is passed on)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        scope["insloc_id"] = name = request_id(scope)
        request_facts.set({"request": name, **trace_of(headers.get(b"traceparent", b"").decode("latin-1"))})
        start = time.monotonic()
        outcome, status = "cancelled", 0  # until an answer begins
        whole = False

        async def observed_receive() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def observed_send(message: Message) -> None:
            nonlocal outcome, status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = dict(message["headers"])
                outcome = headers.get(b"x-insloc-code", b"ok").decode()
                kept = [pair for pair in message["headers"] if pair[0] != b"x-insloc-code"]  # ours alone
                message["headers"] = [*kept, (b"x-request-id", name.encode())]
                unread = has_body(scope) and not whole  # what is still to come is not read
                if unread or "insloc_refusal" in scope or scope["app"].state.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if "insloc_refusal" in scope:  # connection.py's
                raise scope["insloc_refusal"]
            await self.app(scope, observed_receive, observed_send)
        except Refusal as refusal:
            await problem_response(refusal, name)(scope, receive, observed_send)
        except ClientDisconnect:
            log.info("request %s: the client went away", name)
        except asyncio.CancelledError:  # the server is told to end and has waited long enough
            if outcome == "cancelled":
                await problem_response(Refusal("not_ready", "the server is stopping"), name)(scope, receive, observed_send)
        except Exception as error:  # the last resort: a client must get a body, whatever happened
            log.exception("request %s failed", name)
            if outcome != "cancelled":
                raise  # the answer has begun; the server can only cut it off
            await problem_response(error, name)(scope, receive, observed_send)
        finally:
            self._count(scope, outcome, status, time.monotonic() - start)

    def _count(self, scope: Scope, outcome: str, status: int, seconds: float) -> None:
        route = route_of(scope["path"])
        self.metrics.requests.labels(route, outcome).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if outcome == "cancelled":
            self.metrics.cancelled.inc()
        elif outcome in BUSY:
            self.metrics.rejected.labels(outcome).inc()
        if route not in QUIET or outcome != "ok":
            facts = {"route": route, "code": outcome, "status": status, "seconds": round(seconds, 6)}
            client = scope.get("insloc_client", "")
            log_requests.info("answered", extra={"facts": facts | ({"client": client} if client else {})})


def has_body(scope: Scope) -> bool:
    """Whether the request has a body at all."""
    headers = dict(scope["headers"])
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def request_id(scope: Scope) -> str:
    """The client's X-Request-Id where it is short and printable, else a new one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if ID.fullmatch(given) else uuid.uuid4().hex


def route_of(path: str) -> str:
    """The label of a path: one of ROUTES, or "other".

    >>> route_of("/v1/models/resnet18"), route_of("/wp-login.php")
    ('/v1/models', 'other')
    """
    return next((route for route in ROUTES if path == route or path.startswith(route + "/")), "other")
