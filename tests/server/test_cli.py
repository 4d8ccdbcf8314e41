"""The command: help and refusals without torch, one line and exit code 2."""

import json
import re
import subprocess
import sys

import pytest

from insloc_server.keys import parse_keys
from insloc_server.settings import Settings

SCRIPT = """
import sys
sys.argv = ["insloc-server", *{words!r}]
from insloc_server.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def run(*words, **environment):
    import os

    env = {**os.environ, "COLUMNS": "100", **environment}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(words=words)], capture_output=True, text=True, env=env, timeout=60
    )
    *lines, torch = done.stderr.splitlines()
    return done.returncode, done.stdout, lines, torch == "True"


def test_help_names_every_setting_and_shows_examples_without_torch():
    code, out, _, torch = run("--help")
    assert code == 0 and not torch
    shown = {"--" + name.replace("_", "-") for name in Settings.model_fields} - {"--api-keys"}
    found = set(re.findall(r"--[a-z][a-z-]*", out))
    assert found >= shown and "--api-keys" not in found  # a secret has no place on a command line
    assert "insloc-server --model runs/first" in out and "INSLOC_SERVER_" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "a", "--port", "99999"], "--port 99999"),
        (["--model", "a", "--host", "0.0.0.0"], "--allow-remote"),
        (["--model", "a", "--max-aspect", "nan"], "--max-aspect nan"),
        (["--model", "no/such/folder"], "no such folder or file"),
        (["--model", "gs:bucket"], "unknown prefix 'gs:'"),
        (["--model", "random:"], "random:ARCH"),
        (["--model", "random:resnet18", "--api-keys-file", "no/keys.txt"], "--api-keys-file no/keys.txt: No such file"),
        (["--config", "no.toml"], "--config no.toml: No such file"),
        (["key", "a b"], "no name for a key"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line_without_torch(words, reason):
    code, out, lines, torch = run(*words)
    assert (code, out, len(lines), torch) == (2, "", 1, False)
    assert lines[0].startswith("insloc-server: ") and reason in lines[0]


@pytest.mark.parametrize("words", [[], ["--modle", "a"], ["--model", "a", "--port", "x"], ["serf", "--model", "a"]])
def test_a_wrong_option_is_refused_without_torch(words):
    code, out, lines, torch = run(*words)
    assert (code, out, torch) == (2, "", False) and len(lines) > 1


def test_the_settings_are_printed_with_the_command_line_over_the_environment_over_the_file(tmp_path):
    (tmp_path / "a.toml").write_text('model = "a"\nport = 1\nmax_boxes = 1\nmax_images = 1\n')
    words = ["--config", str(tmp_path / "a.toml"), "--port", "3", "--print-config"]
    variables = {"INSLOC_SERVER_PORT": "2", "INSLOC_SERVER_MAX_BOXES": "2", "INSLOC_SERVER_API_KEYS": "k" * 20}
    code, out, lines, torch = run(*words, **variables)
    assert (code, lines, torch) == (0, [], False)
    assert {'model = "a"', "port = 3", "max_boxes = 2", "max_images = 1", "# api_keys: set, hidden"} < set(out.splitlines())
    assert "kkk" not in out


def test_a_misspelt_variable_is_refused():
    code, _, lines, torch = run("--model", "a", INSLOC_SERVER_PROT="1")
    assert (code, len(lines), torch) == (2, 1, False) and "INSLOC_SERVER_PORT" in lines[0]


def test_a_taken_port_is_refused_before_torch_is_imported():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, lines, torch = run("--model", "random:resnet18", "--port", port)
    assert (code, len(lines), torch) == (2, 1, False)
    assert f"port {port}: another program has it" in lines[0]


def test_an_unknown_model_is_a_sentence_with_the_nearest():
    code, out, lines, _ = run("serve", "--model", "random:resnet19", "--port", "0")
    assert (code, out, len(lines)) == (2, "", 2) and "loading" in lines[0]
    assert lines[1].startswith("insloc-server: ") and "'resnet19'" in lines[1] and "'resnet18'" in lines[1]


def test_a_key_is_drawn_with_the_line_that_knows_it():
    code, out, lines, torch = run("key", "ann")
    assert (code, lines, torch) == (0, [], False)
    key, line = (text.rsplit(": ", 1)[1] for text in out.splitlines())
    assert parse_keys(line, "here") == parse_keys(f"ann {key}", "here")


def test_schema_prints_what_the_server_publishes(client):
    code, out, lines, _ = run("schema")
    assert (code, lines) == (0, [])
    assert json.loads(out) == client.get("/openapi.json").json()


def test_model_may_be_given_several_times_and_not_twice_the_same():
    code, out, _, torch = run("--model", "random:resnet18@1", "--port=3", "--model=random:resnet18@2", "--print-config")
    assert code == 0 and 'model = "random:resnet18@1,random:resnet18@2"' in out and "port = 3" in out and not torch
    code, _, (line,), _ = run("--model", "a", "--model", "a")
    assert code == 2 and "one spec, or several different ones" in line
