"""`insloc-server`: the settings as options, and sentences. Everything heavy is imported inside."""

import dataclasses
import json
import logging
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import SecretStr

from insloc_hub.errors import InslocError
from insloc_server.settings import PREFIX, Settings, as_toml, from_environment, make_settings

ABOUT = f"""Serve features of a backbone over HTTP: whole images, dense maps, boxes.

Every option is also an environment variable, e.g. {PREFIX}PORT, and a line of the file --config; the command line wins
over the environment, and that over the file.
SIGTERM and Ctrl-C finish what is in work and stop.

Examples:
  insloc-server --model runs/first
  insloc-server --model random:resnet18 --port 8500 --device cpu
  insloc-server --model runs/first --host 0.0.0.0 --api-keys-file keys.txt
  insloc-server key ann
  insloc-server schema > openapi.json
"""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from insloc_hub.models.spec import parse_spec
    from insloc_server.keys import read_keyring
    from insloc_server.logs import configure
    from insloc_server.process import Forced, listening, until_stopped
    from insloc_server.workers import supervise

    for spec in settings.models:
        parse_spec(spec)
    read_keyring(settings)
    configure(settings.log_format)
    with until_stopped(), listening(settings) as listener:
        logging.getLogger(__name__).info("loading %s", settings.model)
        if settings.workers > 1:
            supervise(settings, listener, work)
            return
        from insloc_server.serve import serve as start

        try:
            start(settings, listener)
        except Forced:
            os._exit(0)  # the end of torch's threads and modules takes seconds


def work(*given: Any) -> None:
    """A worker's part, in its own process: torch is imported there."""
    from insloc_server.serve import work as start

    start(*given)


def schema() -> None:
    """Print the OpenAPI description of the server; no model is loaded."""
    from insloc_server.app import create_app

    print(json.dumps(create_app(make_settings(model="none")).openapi(), indent=2))


def key(name: Annotated[str, tyro.conf.Positional]) -> None:
    """Draw an API key for NAME: what its owner sends, and the line of --api-keys-file that knows it.

    Args:
        name: Whose key it is; stands in the log.
    """
    from insloc_server.keys import new_key

    secret, line = new_key(name)
    print(f"key, shown once, for {name}: {secret}\nline for the file of keys: {line}")


def config_of(words: list[str]) -> Path | None:
    """The file of --config, which must be known before the other options have defaults.

    >>> config_of(["--config", "a.toml"]), config_of(["--config=b.toml", "--port", "1"]), config_of([])
    (PosixPath('a.toml'), PosixPath('b.toml'), None)
    """
    for word, after in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name == "--config" and (value or after):
            return Path(value if equals else after)
    return None


def joined_models(words: list[str]) -> list[str]:
    """--model given several times as one --model with commas, which is what the setting holds.

    >>> joined_models(["--model", "a", "--port", "1", "--model=b"])
    ['--port', '1', '--model', 'a,b']
    """
    models: list[str] = []
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name == "--model" and (equals or left):
            models.append(value if equals else left.pop(0))
        else:
            others.append(word)
    return [*others, "--model", ",".join(models)] if len(models) > 1 else words


def options(config: Path | None) -> type[Any]:
    """The settings as a plain record for tyro: their checks are the settings' own, so that a refusal is one line."""
    environment = from_environment(config)
    print_config = Annotated[bool, tyro.conf.arg(help="Print the settings as a TOML file, secrets hidden, and end.")]
    fields: list[tuple[str, Any, Any]] = [("print_config", print_config, dataclasses.field(default=False))]
    for name, facts in Settings.model_fields.items():
        if facts.annotation is SecretStr:
            continue  # every user of a machine can read its command lines
        kind = Annotated[facts.annotation, tyro.conf.arg(help=facts.description)]  # type: ignore[name-defined]
        value = environment.get(name, tyro.MISSING)
        fields.append((name, kind, dataclasses.field(default=value)))
    return dataclasses.make_dataclass("Options", fields, kw_only=True, frozen=True)


def main() -> None:
    """Run one command; an error of the user's input is a sentence and exit code 2."""
    words = sys.argv[1:]
    try:
        if words[:1] in (["schema"], ["key"]):
            tyro.cli(schema if words[0] == "schema" else key, prog=f"insloc-server {words[0]}", args=words[1:])
            return
        if words[:1] == ["serve"]:
            words = words[1:]
        words = joined_models(words)
        given = dataclasses.asdict(tyro.cli(options(config_of(words)), prog="insloc-server", description=ABOUT, args=words))
        print_config = given.pop("print_config")
        settings = make_settings(**given)
        if print_config:
            print(as_toml(settings), end="")
        else:
            serve(settings)
    except InslocError as error:
        print(f"insloc-server: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("insloc-server: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
