"""A record run again: reproduced, or differs by more than its noise, or can't be verified; three exit codes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_eval import cli
from insloc_eval.run import evaluate
from insloc_eval.stats import Z95
from insloc_eval.verify import verify
from insloc_hub.errors import BadData
from insloc_hub.records import Result


@pytest.fixture(scope="module")
def kept(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Result], Path]:
    out = tmp_path_factory.mktemp("verify")
    options = {"train_limit": 24, "test_limit": 12, "cache": out / "cache", "device": "cpu", "half": "A"}
    return evaluate(["random:resnet18"], ["linear/logistic"], world, out / "results", **options), out  # type: ignore[arg-type]


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["insloc-eval", "verify", *arguments, "--device", "cpu"])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def altered(out: Path, result: Result, name: str, change: Callable[[dict[str, float]], float]) -> Path:
    """A copy of the record whose top1 is another one."""
    values = json.loads((out / "results" / "linear" / f"{result.id}.json").read_text())
    values["metrics"]["top1"]["value"] += change(values["metrics"]["top1"])
    path = out / name / f"{result.id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def error_of(metric: dict[str, float]) -> float:
    return (metric["high"] - metric["low"]) / 2 / Z95


@pytest.mark.parametrize("norms", ["", " (ordinary norms)"])
def test_an_honest_record_is_reproduced_digit_for_digit(
    kept: tuple[list[Result], Path],
    world: Path,
    norms: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results, out = kept
    (result,) = (r for r in results if r.model.spec == f"random:resnet18{norms}")
    path = out / "results" / "linear" / f"{result.id}.json"
    assert call([str(path), "--data", str(world)], monkeypatch) == 0
    assert capsys.readouterr().out.startswith("reproduced, digit for digit: top1 0.")


@pytest.mark.parametrize(("errors", "code", "words"), [(3.0, 1, "differs by more than its noise"), (-0.3, 0, "reproduced: ")])
def test_a_record_altered_by_3_standard_errors_differs_and_one_by_a_third_does_not(
    kept: tuple[list[Result], Path],
    world: Path,
    errors: float,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results, out = kept
    path = altered(out, results[0], f"by{errors}", lambda metric: errors * error_of(metric))
    assert call([str(path), "--data", str(world)], monkeypatch) == code
    said = capsys.readouterr().out
    assert said.startswith(words) and f"{abs(errors):.2g} of its standard errors" in said


def test_other_weights_or_other_images_are_nothing_to_verify(
    kept: tuple[list[Result], Path], world: Path, fill: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, out = kept
    path = out / "results" / "linear" / f"{results[0].id}.json"
    with pytest.raises(BadData, match="the weights differ"):
        verify(path, model="random:resnet18@5", data=world, device="cpu")
    other = fill(tmp_path / "other", {f"{half}/{name}": 4 for half in ("train", "val") for name in "ab"})
    with pytest.raises(BadData, match="the images differ"):
        verify(path, data=other, device="cpu")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadData, match="give the images of 'world0' with --data"):
        verify(path, device="cpu")
    assert call([str(path)], monkeypatch) == 2
