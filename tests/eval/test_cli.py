"""The command line: its options are frozen, refusals are one line, exit 2 and no torch, reports print."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_eval import cli
from insloc_eval.store import Judged, save

MakeRecord = Callable[..., Judged]
RUN = ["run", "--model", "random:resnet18", "--data", ".", "--out", "out"]

OPTIONS = {
    "run": "model task data out device precision seed train_limit test_limit half cache "
    "seeds init_parts extra_norm batch_size steps decompose",
    "compare": "results first second decompose",
    "report": "results out html",
    "ls": "results",
    "show": "record",
    "verify": "record model data device",
    "cache": "folder clear",
    "export": "record data out onnx",
}


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["insloc-eval", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_of_every_command_shows_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([name, "--help"], monkeypatch) == 0
    assert f"insloc-eval {name}" in capsys.readouterr().out.split("For example:")[1]


def test_the_options_are_frozen() -> None:
    found = {name: " ".join(inspect.signature(getattr(cli, name)).parameters) for name in OPTIONS}
    assert found == OPTIONS


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Expected one of"),
        (["rum"], "rum"),
        ([*RUN, "--task", "lineer"], "did you mean 'linear'"),
        ([*RUN, "--task", "patches/linear@7"], "patches/linear@1"),
        (RUN, "at least one --task"),
        ([*RUN, "--task", "linear", "--precision", "fp64"], "fp64"),
        ([*RUN, "--task", "linear", "--train-limit", "many"], "many"),
        ([*RUN[:-2], "--task", "linear"], "--out"),
        ([*RUN, "--task", "linear", "--data", "nowhere"], "no such folder"),
        ([*RUN, "--task", "linear", "--model", "random:"], "random:ARCH"),
        (["report", "nowhere"], "no such folder"),
        (["show", "nothing.json"], "nothing.json"),
        (["compare", ".", "a", "b"], "no record of 'a'"),
        (["report", ".", "--out", "report.docx"], ".md or .csv"),
        (["report", ".", "--html", "report.md"], "must be .html"),
        (["verify", "nothing.json"], "nothing.json"),
        (["export", "nothing.json", "--data", ".", "--out", "out"], "nothing.json"),
    ],
)
def test_a_refusal_is_one_line_with_exit_2(
    arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(arguments, monkeypatch) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("insloc-eval: ") and problem in shown.err
    assert list(tmp_path.iterdir()) == []


def test_help_lists_and_refusals_import_no_torch(tmp_path: Path) -> None:
    script = """
import sys
from insloc_eval.cli import main
for arguments, code in (["--help"], 0), (["run", "--help"], 0), (["ls"], 0), (REFUSED, 2), (UNKNOWN, 2):
    sys.argv = ["insloc-eval", *arguments]
    stopped = 0
    try:
        main()
    except SystemExit as stop:
        stopped = stop.code or 0
    loaded = [name for name in ("torch", "timm", "scipy", "matplotlib") if name in sys.modules]
    if stopped != code or loaded:
        sys.exit(f"{arguments}: exit {stopped}, imported {loaded}")
"""
    script = script.replace("REFUSED", repr([*RUN, "--task", "lineer"])).replace("UNKNOWN", repr([*RUN, "--taks", "linear"]))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_features_that_are_kept_are_listed_and_cleared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("INSLOC_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "features" / ("ab" * 16)).mkdir(parents=True)
    (tmp_path / "home" / "features" / ("ab" * 16) / "features.safetensors").write_bytes(b"0" * 1_500_000)
    assert call(["cache"], monkeypatch) == 0
    assert "1.5 MB        0 images  half-written" in capsys.readouterr().out
    assert call(["cache", "--clear"], monkeypatch) == 0
    assert "removed 1.5 MB" in capsys.readouterr().out
    assert call(["cache", "--folder", str(tmp_path / "nowhere")], monkeypatch) == 0
    assert "0.0 MB in 0 sets" in capsys.readouterr().out


def test_report_compare_ls_and_show_read_a_folder_of_records(
    make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = [save(tmp_path / "r", make_record(spec, values)) for spec, values in (("a", [0, 1, 1, 1]), ("b", [0, 1, 0, 1]))]
    paths.append(save(tmp_path / "r", make_record("cut", [0, 1])))
    paths[2].write_text("{")
    monkeypatch.chdir(tmp_path)
    assert call(["report", "r", "--out", "r.csv"], monkeypatch) == 0
    shown = capsys.readouterr()
    assert "0.750 [0.301, 0.954]" in shown.out and "left out" in shown.err and (tmp_path / "r.csv").exists()
    assert call(["report", "r", "--html", "r.html"], monkeypatch) == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>") and capsys.readouterr()
    assert call(["compare", "r", "a", "b"], monkeypatch) == 0
    assert "no difference shown" in capsys.readouterr().out
    assert call(["ls"], monkeypatch) == 0
    assert "run so far: never" in (listed := capsys.readouterr().out) and "run so far: smoke: " in listed
    assert call(["ls", "r"], monkeypatch) == 0
    assert paths[0].stem in (listed := capsys.readouterr().out) and "unusable" in listed
    assert call(["show", str(paths[0])], monkeypatch) == 0
    assert '"spec": "a"' in capsys.readouterr().out
