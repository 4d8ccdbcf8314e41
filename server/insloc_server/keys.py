"""API keys: who may ask, and under which name. Only digests are kept; every one is compared, in constant time.

A key is long and drawn by a machine (`insloc-server key`), so that one SHA-256 is enough to store it by.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from insloc_hub.errors import InslocError
from insloc_server.problems import Refusal
from insloc_server.settings import PREFIX, Settings

OPEN_PATHS = ("/livez", "/startupz", "/readyz", "/v2/health/live", "/v2/health/ready")
"""What an orchestrator asks without a key."""

SHORTEST = 16
NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
KEY = re.compile(rf"[!\"$-+\--~]{{{SHORTEST},200}}")  # printable, without space, comma and #
REMARK = re.compile(r"(^|\s)#.*")
DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")

Keyring = dict[bytes, str]
"""SHA-256 of a key -> its owner's name."""


class Keyed:
    """Lets a request with a known key pass, as `insloc_client` in the scope; refuses others before their body is read."""

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self.app = app
        self.keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Refusal: unauthorized."""
        if scope["type"] == "http":
            scope["insloc_client"] = ""
            peers = scope["app"].state.peers
            open_to_it = scope["path"] in OPEN_PATHS or (peers is not None and peers.asks(scope))
            if self.keyring and not open_to_it:
                scope["insloc_client"] = owner(self.keyring, Headers(scope=scope))
        await self.app(scope, receive, send)


def owner(keyring: Keyring, headers: Mapping[str, str]) -> str:
    """The name that the request's key stands under. Refusal: unauthorized."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    key = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    digest = hashlib.sha256(key.encode("latin-1", "replace")).digest()
    found = [name for known, name in keyring.items() if hmac.compare_digest(known, digest)]  # no early end
    if not found:
        raise Refusal("unauthorized", "send a key that is known here as `Authorization: Bearer KEY` or `X-API-Key: KEY`")
    return found[0]


def read_keyring(settings: Settings) -> Keyring:
    """The keys of the settings and of their file together; {}: all may ask. InslocError."""
    keyring = parse_keys(settings.api_keys.get_secret_value(), f"{PREFIX}API_KEYS")
    file = settings.api_keys_file
    if file is None:
        return keyring
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InslocError(f"--api-keys-file {file}: {getattr(error, 'strerror', None) or 'not text'}") from None
    found = parse_keys(text, f"--api-keys-file {file}")
    if not found:
        raise InslocError(f"--api-keys-file {file}: there is no key in it; make one with: insloc-server key NAME")
    return keyring | found


def parse_keys(text: str, place: str) -> Keyring:
    """Entries `[NAME] KEY` or `[NAME] sha256:HEX`, a line or a comma each; `#` begins a remark. InslocError, without the key.

    >>> list(parse_keys("ann 0123456789abcdef0123, 0123456789abcdef0124", "here").values())
    ['ann', 'key-2']
    """
    entries = [entry.split() for line in text.splitlines() for entry in REMARK.sub("", line).split(",") if entry.strip()]
    keyring: Keyring = {}
    for number, words in enumerate(entries, 1):
        name = words[0] if len(words) == 2 else f"key-{number}"
        key = words[-1]
        stored = DIGEST.fullmatch(key)
        plain = KEY.fullmatch(key) and not key.startswith("sha256:")
        if len(words) > 2 or not NAME.fullmatch(name) or not (stored or plain):
            raise InslocError(
                f"{place}: entry {number} is no `[NAME] KEY` or `[NAME] sha256:HEX`; a key has at least {SHORTEST} characters, "
                "without space, comma and #"
            )
        keyring[bytes.fromhex(stored[1]) if stored else hashlib.sha256(key.encode()).digest()] = name
    return keyring


def new_key(name: str) -> tuple[str, str]:
    """A key for its owner, and the line for the file. InslocError: no name."""
    if not NAME.fullmatch(name):
        raise InslocError(f"{name!r} is no name for a key: 1 to 32 of A-Z a-z 0-9 _ . -")
    key = secrets.token_urlsafe(32)
    return key, f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"
