"""`insloc convert` and `insloc verify` from outside: sentences, exit codes, JSON; the commands of docs/convert.md run."""

import json
import pickle
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from insloc_hub.checkpoints.families import insloc
from insloc_hub.cli import main

Tensors = dict[str, Tensor]
Insloc = Callable[..., tuple[object, str, str]]
PAGE = (Path(__file__).parents[3] / "docs" / "convert.md").read_text(encoding="utf-8")


@pytest.fixture
def insloc_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Insloc:
    """Runs `insloc ARGS` in an empty folder, in this process; exit code, output, complaints."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["insloc", *args])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def save_training_file(small: Tensors, twin: Tensors, spell: Callable[..., Tensors], path: Path) -> None:
    torch.save({"state_dict": spell(small, insloc.C4, "", twin)}, path)


def test_convert_says_what_it_did_and_verify_that_both_are_one(
    insloc_command: Insloc, small: Tensors, sound: Callable[..., Tensors], spell: Callable[..., Tensors], tmp_path: Path
) -> None:
    save_training_file(small, sound("resnet18", 21), spell, tmp_path / "a.pth")
    code, out, _ = insloc_command("convert", "a.pth", "--to", "detectron2", "--out", "b.pkl")
    assert code == 0
    assert out.startswith(
        "120 of 120 trunk tensors used, 120 dropped by rule 'momentum twin', layout InsLoc-C4 (query), resnet18;"
    )
    assert "INPUT.FORMAT RGB" in out
    code, out, _ = insloc_command("verify", "a.pth", "b.pkl", "--strict")
    assert code == 0 and out.endswith("the same network\n")
    code, out, _ = insloc_command("verify", "a.pth", "b.pkl", "--encoder", "key", "--json")
    found = json.loads(out)
    assert code == 1 and found["agrees"] is False and list(found["differences"]) == ["of the other encoder (momentum twin)"]


def test_convert_can_speak_to_machines(insloc_command: Insloc, small: Tensors, tmp_path: Path) -> None:
    save_file(small, tmp_path / "a.safetensors")
    code, out, _ = insloc_command("convert", "a.safetensors", "--to", "torchvision", "--out", "b.pth", "--json")
    found = json.loads(out)
    assert code == 0 and found["parts"] == ["trunk"] and found["warnings"] == [] and len(found["stages"]) == 5


def test_a_suspicion_is_a_no_only_under_strict(insloc_command: Insloc, small: Tensors, tmp_path: Path) -> None:
    save_file({**small, "odd": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert insloc_command("verify", "a.safetensors")[0] == 0
    code, out, _ = insloc_command("verify", "a.safetensors", "--strict")
    assert code == 1 and "1 unknown (odd)" in out


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran"),))


WRONG = {
    "hostile.pkl": (lambda: pickle.dumps({"model": Evil()}), "Nothing of it was run"),
    "page.pth": (lambda: b"<html>404</html>", "a text file"),
    "cut.safetensors": (lambda: b"\x10\0\0\0\0\0\0\0{", "not a whole safetensors file"),
    "empty.pth": (lambda: b"", "an empty file"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", [["verify"], ["convert", "--to", "timm", "--out", "out"]], ids=["verify", "convert"])
def test_a_wrong_file_is_one_sentence_exit_code_2_and_nothing_written(
    insloc_command: Insloc, tmp_path: Path, name: str, command: list[str]
) -> None:
    make, said = WRONG[name]
    (tmp_path / name).write_bytes(make())
    code, out, err = insloc_command(command[0], name, *command[1:])
    assert code == 2 and out == "" and err.startswith(f"insloc: {name}: ") and said in err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, flags=re.M | re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("insloc ")]


@pytest.mark.parametrize("exporting", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["names", "onnx"])
def test_the_commands_of_the_page_run_in_their_order(
    insloc_command: Insloc, sound: Callable[..., Tensors], spell: Callable[..., Tensors], tmp_path: Path, exporting: bool
) -> None:
    """In a folder with insloc_fpn.pth, a training file, and stranger.pth, another network. ONNX takes the slow one."""
    if exporting:
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name, reason="needs the extra `onnx`: pip install 'insloc_hub[onnx]'")
    ours = sound("resnet18", 31, ("trunk", "fpn", "head"))
    torch.save({"state_dict": spell(ours, insloc.FPN, "", sound("resnet18", 32))}, tmp_path / "insloc_fpn.pth")
    torch.save(sound("resnet18", 33), tmp_path / "stranger.pth")
    assert len(COMMANDS) == 8
    for line in COMMANDS:
        words = shlex.split(line, comments=True)
        if exporting or "onnx" not in words:
            code, out, err = insloc_command(*words[1:])
            assert code == (1 if "exit code 1" in line else 0), (line, out, err)
