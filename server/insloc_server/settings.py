"""Every setting of the server in one frozen record: command line over INSLOC_SERVER_* over a TOML file over the defaults.

The defaults and their reasons are serving.md, section 6.6. The only module that reads the server's environment.
"""

import ipaddress
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from insloc_hub.errors import InslocError, UnknownName

PREFIX = "INSLOC_SERVER_"
MIB = 1024 * 1024


class Settings(BaseSettings):
    """What to serve, where, and what a client may ask."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    config: Path | None = Field(None, description="A TOML file of settings by these names; the environment wins over it.")
    model: str = Field(
        min_length=1, description="Spec of the model: a path, a card, a timm name, random:ARCH, ... Several: one --model each."
    )
    model_bytes: int = Field(
        4096 * MIB, ge=MIB, description="Size of loaded models together; those unused for longest make room, never the first."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; one that others can reach needs --allow-remote.")
    port: int = Field(8411, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    allow_remote: bool = Field(False, description="Listen where others can reach it, though no API keys are set.")
    api_keys: SecretStr = Field(
        SecretStr(""), description="API keys, or their sha256:HEX, with commas between; a name may stand before each."
    )
    api_keys_file: Path | None = Field(None, description="A file of API keys as `insloc-server key` makes them, one a line.")
    workers: int = Field(1, ge=1, le=64, description="Processes at the port, each with its own model and queue.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of the model.")
    engine: Literal["auto", "eager", "fused", "onnx"] = Field(
        "auto", description="What computes: eager (plain torch), fused (one frozen graph), onnx; auto: fused on a CPU in fp32."
    )
    log_format: Literal["text", "json"] = Field("text", description="Of the log: for people; or JSON, with every request.")
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 leaves it to torch.")
    lanes: int = Field(
        0, ge=0, le=16, description="Batches computed at the same time, which share the threads; 0: two on a CPU with several."
    )
    decode_threads: int = Field(
        default_factory=lambda: max(1, (os.cpu_count() or 2) // 2), ge=1, description="Threads that decode images."
    )
    batch_images: int = Field(0, ge=0, description="Most images in one forward; 0: 4 on a CPU, else 8.")
    queue_images: int = Field(64, ge=1, description="Images in work at a time; beyond that: 429.")
    queue_bytes: int = Field(256 * MIB, ge=1024, description="Size of the network inputs in work; beyond that: 429.")
    deadline_s: float = Field(10.0, gt=0, allow_inf_nan=False, description="Time to answer in, where a client gives none.")
    max_deadline_s: float = Field(30.0, gt=0, allow_inf_nan=False, description="Most that a client may give.")
    max_body_bytes: int = Field(16 * MIB, ge=1024, description="Size of a request.")
    max_held_bytes: int = Field(256 * MIB, ge=1024, description="Size of all requests in work together.")
    max_pixels: int = Field(25_000_000, ge=64, description="Width x height of an image, read from its header.")
    max_request_pixels: int = Field(100_000_000, ge=64, description="The same, over the images of a request.")
    min_side: int = Field(8, ge=1, description="Shorter side of an image in pixels.")
    max_aspect: float = Field(50.0, ge=1, allow_inf_nan=False, description="Longer over shorter side of an image.")
    max_images: int = Field(32, ge=1, description="Images of a request.")
    max_boxes: int = Field(256, ge=1, description="Boxes of an image.")
    max_request_boxes: int = Field(1024, ge=1, description="Boxes of a request.")
    max_input_pixels: int = Field(2_000_000, ge=1024, description="Pixels of a network input (transform whole:N).")
    max_request_input_pixels: int = Field(16_000_000, ge=1024, description="The same, over the images of a request.")
    max_answer_bytes: int = Field(64 * MIB, ge=1024, description="Size of an answer, computed before the forward.")
    max_header_bytes: int = Field(16 * 1024, ge=256, description="Size of a request's line and headers.")
    max_header_fields: int = Field(64, ge=8, description="Headers of a request.")
    max_connections: int = Field(256, ge=1, description="Open connections; beyond that requests get 503.")
    header_timeout_s: float = Field(10.0, gt=0, allow_inf_nan=False, description="Time for a request's headers to arrive.")
    body_timeout_s: float = Field(30.0, gt=0, allow_inf_nan=False, description="Time for a request's body to arrive.")
    min_body_rate: int = Field(1000, ge=1, description="Bytes a second that a body needs after 5 s; an answer's reader too.")
    ready_timeout_s: float = Field(10.0, gt=0, allow_inf_nan=False, description="Time for the compute thread to answer.")
    drain_delay_s: float = Field(
        5.0, ge=0, allow_inf_nan=False, description="After SIGTERM, time to answer as before while /readyz says 503."
    )
    drain_timeout_s: int = Field(25, ge=0, description="At the end, time for requests in work to finish.")

    @property
    def models(self) -> tuple[str, ...]:
        """The specs in `model`, which has commas between them."""
        return tuple(spec.strip() for spec in self.model.split(","))

    @model_validator(mode="after")
    def _check_models(self) -> "Settings":
        if not all(self.models) or len(set(self.models)) < len(self.models):
            raise ValueError(f"model {self.model!r} must be one spec, or several different ones with commas between")
        return self

    @model_validator(mode="after")
    def _check_host(self) -> "Settings":
        guarded = self.allow_remote or self.api_keys_file is not None or self.api_keys.get_secret_value().strip()
        if not guarded and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by others, and there are no API keys: "
                "--api-keys-file FILE (make them with: insloc-server key), or mean it: --allow-remote"
            )
        return self


def make_settings(**given: Any) -> Settings:
    """Settings from `given`, then the environment, then the file `config`, then the defaults. InslocError: one line."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    environment = {name.upper() for name, value in os.environ.items() if value}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise UnknownName("environment variable", name, known, "insloc-server --help")
    file = given.get("config") or os.environ.get(f"{PREFIX}CONFIG")
    values = {} if not file else read_file(Path(file))
    values = {name: value for name, value in values.items() if PREFIX + name.upper() not in environment}
    try:
        return Settings(**{**values, **given})
    except ValidationError as error:
        raise InslocError("; ".join(_sentence(problem) for problem in error.errors(include_url=False))) from None


def read_file(path: Path) -> dict[str, Any]:
    """Settings of a TOML file, by name. InslocError: it can't be read, or says something that is no setting."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InslocError(f"--config {path}: {getattr(error, 'strerror', None) or error}") from None
    known = sorted(Settings.model_fields.keys() - {"config"})
    for name in values:
        if name not in known:
            raise UnknownName(f"setting in {path}", name, known, "insloc-server --help")
    if isinstance(values.get("api_keys"), list):
        values["api_keys"] = ",".join(map(str, values["api_keys"]))
    return values


def from_environment(config: Path | None = None) -> dict[str, Any]:
    """Every setting's value where the command line says nothing; `model` only if it is there. InslocError."""
    given = {name.upper(): value for name, value in os.environ.items() if value}
    file = config or given.get(f"{PREFIX}CONFIG")
    values = {} if not file else read_file(Path(file))
    host = given.get(f"{PREFIX}HOST") or values.get("host") or Settings.model_fields["host"].default
    model = given.get(f"{PREFIX}MODEL") or values.get("model")
    # The host is judged with the command line, which may allow it.
    made = make_settings(model=model or "?", host="localhost", **({"config": config} if config else {}))
    values = {**made.model_dump(), "host": host}
    return values if model else {name: value for name, value in values.items() if name != "model"}


def as_toml(settings: Settings) -> str:
    """The settings as a file for `config`; secrets only as a remark that they are there."""
    lines = []
    for name, value in settings:
        if isinstance(value, SecretStr):
            lines.append(f"# {name}: {'set, hidden' if value.get_secret_value() else 'not set'}")
        elif value is None or name == "config":
            lines.append(f"# {name}: {'not set' if value is None else value}")
        else:
            plain = str(value) if isinstance(value, Path) else value
            lines.append(f"{name} = {json.dumps(plain, ensure_ascii=False)}")  # TOML writes these as JSON does
    return "\n".join(lines) + "\n"


def mirror_token(file: Path | None) -> str | None:
    """What a client of the mirror must know: the line in `file`, else INSLOC_MIRROR_TOKEN; None: all may read. InslocError."""
    name = "INSLOC_MIRROR_TOKEN" if file is None else str(file)
    try:
        token = (os.environ.get(name) if file is None else file.read_text(encoding="utf-8")) or ""
    except (OSError, UnicodeDecodeError) as error:
        raise InslocError(f"token file {name}: {getattr(error, 'strerror', None) or 'not text'}") from None
    token = token.strip()
    if not token and file is None:
        return None
    if not (token.isascii() and token.isprintable() and token and " " not in token):
        raise InslocError(f"{name} holds no token: one word of ASCII characters is needed")  # a header can't carry more
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _sentence(problem: Any) -> str:
    text = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return text
    name = str(problem["loc"][0])
    if name == "api_keys":
        return f"{PREFIX}API_KEYS: {text[:1].lower()}{text[1:]}"  # without what it holds
    if problem["type"] == "missing":
        return f"--{name} is missing (or {PREFIX}{name.upper()})"
    return f"--{name.replace('_', '-')} {problem['input']}: {text[:1].lower()}{text[1:]}"
