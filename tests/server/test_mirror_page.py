"""docs/mirror.md: its commands run as they stand, one after the other; its tables are the code's."""

import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mirrors import mirror, publish

import insloc_server.mirror as module
from insloc_hub.cli import mirror as command

PAGE = (Path(__file__).parents[2] / "docs" / "mirror.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S)
DEFAULT_PORT = "8412"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def free_of_python(script: str) -> str:
    """The script without the lines that load a model: each of those imports torch."""
    return "".join(line for line in script.splitlines(keepends=True) if not line.startswith("python "))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("shorten", [free_of_python, pytest.param(str, marks=pytest.mark.slow)])
def test_the_page_s_commands_lead_from_the_hub_to_a_client_of_the_mirror(exported_run, tmp_path, shorten):
    source = publish(tmp_path / "hub/timm/test_resnet.r160_in1k").parents[1]
    shutil.copytree(exported_run, tmp_path / "runs/first")
    port = free_port()
    assert len(BLOCKS) == 5
    pull, copy, serve, serve_others, use = (block.replace(f":{DEFAULT_PORT}", f":{port}") for block in BLOCKS)
    assert serve_others.startswith(serve.strip())
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env |= {"HF_HOME": str(tmp_path / "home"), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(script: str, **more: str) -> str:
        words = ["bash", "-e", "-c", script]
        done = subprocess.run(words, cwd=tmp_path, env={**env, **more}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with mirror(source) as (url, _):
        assert run(pull, HF_ENDPOINT=url).endswith(", 4 to fetch\n")
    run(copy)
    words = [*serve.split(), "--port", port]
    with subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == f"serving 2 models of models at http://127.0.0.1:{port}\n"
            said = run(shorten(use))
        finally:
            process.terminate()
    assert said.endswith("lab/resnet18.first\ntimm/test_resnet.r160_in1k\n")


def test_the_default_port_of_the_page_is_the_command_s():
    assert inspect.signature(command).parameters["port"].default == int(DEFAULT_PORT)
    assert f"`http://127.0.0.1:{DEFAULT_PORT}`" in PAGE


def test_the_codes_of_the_page_are_those_of_the_code():
    source = Path(module.__file__).read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| 4\d\d[^|]*\| `(\w+)` \|", PAGE, flags=re.M))
    assert shown == set(re.findall(r'"((?:Repo|Revision|Entry|Gated)\w+)"', source))
    assert f"{module.PAGE:,}" in PAGE and f"({module.DRAIN_S} s)" in PAGE
