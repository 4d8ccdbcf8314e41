"""The models of a server. The first is there from the start and stays; another is loaded when it is first asked for.

Loading has a thread of its own, one model at a time and each once, so that no request for a loaded model waits for it; who
asks meanwhile is told to come again. Those that were not asked for longest make room for a new one.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from insloc_hub.errors import InslocError
from insloc_hub.models.extractor import Extractor, load
from insloc_server.engine import Engine, model_id
from insloc_server.engines import make_forwarder
from insloc_server.problems import Refusal
from insloc_server.settings import Settings
from insloc_server.threads import single_threaded

log = logging.getLogger(__name__)

State = Literal["cold", "loading", "ready", "failed"]
RETRY_S = 5  # what a client is told to wait while a model is loaded
TRY_AGAIN_S = 60.0  # after a model could not be loaded


def named(specs: Sequence[str]) -> dict[str, str]:
    """The specs by the names they have on a server. InslocError: two have the same."""
    names: dict[str, str] = {}
    for spec in specs:
        name = model_id(spec)
        if name in names:
            raise InslocError(f"--model {names[name]} and --model {spec} would both be called {name}; rename a folder")
        names[name] = spec
    return names


class Models:
    """The models of the settings around the first one, which is loaded already. Any thread may `get`; `close` it."""

    def __init__(self, settings: Settings, first: Engine, loader: Callable[[str], Extractor] | None = None) -> None:
        self.settings = settings
        self.first = first
        self.specs = {first.name: settings.models[0], **named(settings.models[1:])}
        """By name."""
        self._load = loader or (lambda spec: load(spec, settings.device, settings.precision))
        self._ready: dict[str, Engine] = {first.name: first}  # the one that was not asked for longest is first
        self._loading: set[str] = set()
        self._failed: dict[str, float] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="insloc-load", initializer=single_threaded)

    def get(self, name: str | None, *, bring: bool = True) -> Engine:
        """The model of that name (None: the first). Refusal: model_not_found; not_ready, and its loading has begun.

        Without `bring` nothing is loaded for it, and it counts as no use of the model.
        """
        wanted = self.first.name if name is None else name
        if wanted not in self.specs:
            raise Refusal("model_not_found", f"this server has {', '.join(self.specs)}; see GET /v1/models")
        with self._lock:
            if wanted in self._ready:
                engine = self._ready[wanted]
                if bring:
                    self._ready[wanted] = self._ready.pop(wanted)
                return engine
            if not bring:
                raise Refusal("not_ready", f"{wanted} is not loaded")
            if time.monotonic() - self._failed.get(wanted, -TRY_AGAIN_S) < TRY_AGAIN_S:
                raise Refusal("not_ready", f"{wanted} could not be loaded; the reason is in the server's log")
            if wanted not in self._loading:
                self._loading.add(wanted)
                self._thread.submit(self._bring, wanted)
        raise Refusal("not_ready", f"{wanted} is being loaded; try again in {RETRY_S} s", retry_after=RETRY_S)

    def state(self, name: str) -> State:
        """Where a model of `specs` stands."""
        with self._lock:
            if name in self._ready:
                return "ready"
            return "loading" if name in self._loading else "failed" if name in self._failed else "cold"

    def loaded(self) -> list[Engine]:
        """The models that can compute now, in the order of the settings."""
        with self._lock:
            return [self._ready[name] for name in self.specs if name in self._ready]

    def close(self) -> None:
        """No model is loaded any more; the one that is being loaded comes to its end first."""
        self._thread.shutdown(cancel_futures=True)

    def _bring(self, name: str) -> None:
        log.info("loading %s", self.specs[name])
        try:
            extractor = self._load(self.specs[name])
            engine = Engine(extractor, self.settings, make_forwarder(extractor, self.settings.engine), beside=self.first)
            engine.warm_up()
        except Exception:  # whatever is wrong with one model, the others are served
            log.exception("%s could not be loaded", self.specs[name])
            with self._lock:
                self._loading.discard(name)
                self._failed[name] = time.monotonic()
            return
        with self._lock:
            self._loading.discard(name)
            self._failed.pop(name, None)
            self._ready[name] = engine
            self._make_room(name)
        log.info("serving %s as %s", self.specs[name], name)

    def _make_room(self, newest: str) -> None:
        """Forget models until the rest fits; what they are computing they finish."""
        for name in list(self._ready):
            if sum(engine.size for engine in self._ready.values()) <= self.settings.model_bytes:
                return
            if name not in (self.first.name, newest):
                log.info("%s makes room", name)
                del self._ready[name]
