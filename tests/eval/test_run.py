"""The whole run on the procedural world: floors beside, nothing done twice, interrupted runs go on, bad asks refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insloc_eval.ask import Ask, shown
from insloc_eval.run import evaluate
from insloc_eval.store import browse
from insloc_hub.errors import InslocError
from insloc_hub.records import Result

LIMITS = ("--train-limit", "24", "--test-limit", "12")
INSLOC_EVAL = [sys.executable, "-m", "insloc_eval.cli"]


@pytest.fixture(scope="module")
def first(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Result], Path]:
    """An undisturbed run of two models by all tasks."""
    out = tmp_path_factory.mktemp("run")
    models, tasks = ["random:resnet18@7", "random:resnet18"], ["patches/linear", "patches/relocate", "linear/logistic"]
    cache = out / "cache"
    results = evaluate(models, tasks, world, out / "results", train_limit=24, test_limit=12, cache=cache, device="cpu")
    return results, out


def essence(results: list[Result]) -> dict[str, object]:
    return {result.id: result.metrics for result in results}


def test_both_random_initialisations_of_the_architecture_stand_beside_once(first: tuple[list[Result], Path]) -> None:
    results, _ = first
    table = [(result.protocol, result.model.spec) for result in results]
    specs = {"random:resnet18", "random:resnet18 (ordinary norms)", "random:resnet18@7"}
    protocols = {"patches/linear@1", "patches/relocate@1", "linear/logistic@1"}
    assert sorted(table) == sorted((protocol, spec) for protocol in protocols for spec in specs)
    assert len({result.model.sha256 for result in results}) == 3


def test_a_padded_random_network_with_ordinary_norms_knows_where_its_cells_are(first: tuple[list[Result], Path]) -> None:
    results, _ = first
    top1 = {r.model.spec: r.metrics["top1"].value for r in results if r.protocol == "patches/linear@1"}
    assert top1["random:resnet18 (ordinary norms)"] > 0.9  # paper.md D.1: 1.00 / .43 on 900 photographs
    assert top1["random:resnet18"] < 0.7


def test_records_are_on_disk_with_the_command_and_without_folders_of_this_machine(
    first: tuple[list[Result], Path], world: Path
) -> None:
    results, out = first
    shelf = browse(out / "results")
    assert essence(shelf.results) == essence(results) and shelf.problems == []
    assert results[0].command.startswith(
        "insloc-eval run --model random:resnet18@7 --model random:resnet18 --task patches/linear"
    )
    assert str(world) not in json.dumps([result.as_dict() for result in results])


def test_a_finished_record_is_not_computed_again(
    first: tuple[list[Result], Path], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, out = first
    stamps = {path: path.stat().st_mtime_ns for path in (out / "results").rglob("*.json")}
    again = evaluate(
        ["random:resnet18"], ["linear/logistic"], world, out / "results", train_limit=24, test_limit=12, device="cpu"
    )
    assert {result.id for result in again} < set(essence(results))
    assert {path: path.stat().st_mtime_ns for path in (out / "results").rglob("*.json")} == stamps
    assert capsys.readouterr().err.count("kept") == 2


def test_a_damaged_record_is_computed_again_with_a_notice_and_is_the_same(
    first: tuple[list[Result], Path], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, out = first
    (wanted,) = (r for r in results if r.protocol == "linear/logistic@1" and r.model.spec == "random:resnet18")
    path = out / "results" / "linear" / f"{wanted.id}.json"
    path.write_text(path.read_text()[:200])
    options = {"train_limit": 24, "test_limit": 12, "cache": out / "cache", "device": "cpu"}
    again = evaluate(["random:resnet18"], ["linear/logistic"], world, out / "results", **options)  # type: ignore[arg-type]
    assert essence(again)[wanted.id] == wanted.metrics
    assert "computed again" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_and_ends_with_the_same_records(
    first: tuple[list[Result], Path], world: Path, tmp_path: Path
) -> None:
    results, _ = first
    asked = ("--model", "random:resnet18", "--task", "patches/relocate", "--task", "linear/logistic", "--device", "cpu")
    command = [
        *INSLOC_EVAL,
        "run",
        *asked,
        "--cache",
        str(tmp_path / "cache"),
        "--data",
        str(world),
        "--out",
        str(tmp_path / "out"),
        *LIMITS,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    give_up = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*/*.json")) and time.monotonic() < give_up:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "same command goes on" in errors and "Traceback" not in errors
    done = browse(tmp_path / "out")
    assert 1 <= len(done.results) < 4 and done.problems == []
    finish = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert finish.returncode == 0, finish.stderr
    assert finish.stderr.count("kept") >= len(done.results)
    ended = essence(browse(tmp_path / "out").results)
    assert len(ended) == 4 and ended == {name: essence(results)[name] for name in ended}
    assert "## patches/relocate@1" in finish.stdout and "*oracle*" in finish.stdout


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"models": ()}, "at least one --model"),
        ({"tasks": ()}, "at least one --task"),
        ({"tasks": ("lineer",)}, "did you mean 'linear'"),
        ({"models": ("random:resnet18", "nosuch:thing")}, "unknown prefix"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"seed": -1}, "--seed -1"),
        ({"test_limit": 1}, "--test-limit 1"),
        ({"half": "C"}, "unknown half 'C'"),
        ({"half": "A", "tasks": ("linear", "regions/mosaic")}, "regions/mosaic-a or -b"),
        ({"data": Path("/nowhere/at/all")}, "no such folder"),
        ({"out": Path(__file__) / "results"}, "can't write"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    fields = {"models": ("random:resnet18",), "tasks": ("linear",), "data": tmp_path, "out": tmp_path / "out", **changes}
    with pytest.raises(InslocError, match=problem):
        Ask(**fields).check()  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_records_name_paths_without_the_folders_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(str(tmp_path / "runs" / "first")) == "runs/first"
    assert shown("local-dir:" + os.path.join(os.sep, "a", "b", "c", "model")) == "local-dir:c/model"
    assert shown("hf-hub:org/name") == "hf-hub:org/name"
