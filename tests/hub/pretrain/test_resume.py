"""A run that was stopped and resumed is the run that was not, bit for bit; a checkpoint that can't be used is refused."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from insloc_hub.errors import BadRun
from insloc_hub.pretrain.loop import Finish
from insloc_hub.pretrain.resume import read_checkpoint, restore_state, save_state
from insloc_hub.pretrain.state import new_state
from insloc_hub.recipe import from_dict

Start = Callable[..., Finish]


def differences(one: Any, two: Any, place: str = "") -> list[str]:
    """Where two nested values are not equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return [] if one.dtype == two.dtype and torch.equal(one, two) else [place]
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return [f"{place} keys"]
        return [found for key in one for found in differences(one[key], two[key], f"{place}.{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(two):
            return [f"{place} length"]
        return [found for i, (a, b) in enumerate(zip(one, two, strict=True)) for found in differences(a, b, f"{place}[{i}]")]
    return [] if one == two else [place]


def losses(run: Path) -> list[tuple[int, int, float, list[float], float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["epoch"], line["loss"], line["accuracy"], line["lr"]) for line in lines]


@pytest.fixture
def stopped(start: Start, tmp_path: Path) -> Path:
    """Stopped after 3 of 6 steps."""
    torch.manual_seed(5)
    finish = start(tmp_path / "run", stop=3)
    assert (finish.step, finish.total, finish.interrupted) == (3, 6, True)
    return tmp_path / "run"


def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(stopped: Path, undisturbed: Path, start: Start) -> None:
    half, whole = read_checkpoint(stopped), read_checkpoint(undisturbed)
    assert {"encoder", "twin", "queue", "optimizer", "random", "step"} <= whole.keys()
    assert len(whole["optimizer"]["state"]) > 20
    assert any("momentum_buffer" in place for place in differences(half["optimizer"]["state"], whole["optimizer"]["state"]))
    torch.manual_seed(999)  # another process has another generator
    finish = start(stopped, resume=True, steps=None)
    assert (finish.step, finish.total, finish.interrupted) == (6, 6, False)
    assert differences(read_checkpoint(stopped), whole) == []
    assert losses(stopped) == losses(undisturbed) and [line[0] for line in losses(stopped)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]
)
def test_all_state_comes_back_and_the_next_twenty_losses_are_those_of_an_undisturbed_run(
    start: Start, tmp_path: Path, device: str
) -> None:
    """On CUDA sums are not repeatable: there two undisturbed runs say how far apart losses may be."""
    run, again, total = tmp_path / "run", tmp_path / "again", 24
    for name in ("one", "two"):
        start(tmp_path / name, steps=total, device=device, epochs=3)
    start(run, stop=4, steps=total, device=device, epochs=3)
    saved = read_checkpoint(run)
    state = new_state(from_dict(saved["recipe"]), torch.device(device))
    restore_state(state, saved, saved["data"])
    again.mkdir()
    save_state(state, saved["data"], again)
    assert differences(read_checkpoint(again), saved) == []
    assert start(run, resume=True, steps=total, device=device).step == total
    mine, one, two = (torch.tensor([line[2] for line in losses(at)]) for at in (run, tmp_path / "one", tmp_path / "two"))
    spread = float((one - two).abs().max())
    assert len(mine) == total and float((mine - one)[4:].abs().max()) <= 2 * spread
    assert spread == 0 or device == "cuda"


def test_the_difference_of_two_runs_would_be_seen(undisturbed: Path, start: Start, tmp_path: Path) -> None:
    start(tmp_path / "other", seed=1)
    found = differences(read_checkpoint(tmp_path / "other"), read_checkpoint(undisturbed))
    for name in (".encoder.trunk.layer4.0.conv1.weight", ".twin.projection.fc1.weight", ".queue.keys", ".recipe.seed"):
        assert name in found


def test_metrics_after_the_checkpoint_are_cut(stopped: Path, undisturbed: Path, start: Start) -> None:
    """A killed run has written more lines than its checkpoint knows, the last one half."""
    with (stopped / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 4, "loss": 77.0}\n{"step": 5, "loss": 88.0}\n{"step": 6, "lo')
    start(stopped, resume=True, steps=None)
    assert losses(stopped) == losses(undisturbed)


def test_a_lost_metrics_file_does_not_stop_a_run(stopped: Path, undisturbed: Path, start: Start) -> None:
    (stopped / "metrics.jsonl").unlink()
    start(stopped, resume=True, steps=None)
    assert losses(stopped) == losses(undisturbed)[3:]


def test_resuming_a_finished_run_changes_nothing(undisturbed: Path, start: Start, tmp_path: Path) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    finish = start(run, resume=True, steps=None)
    assert (finish.step, finish.interrupted) == (6, False)
    assert differences(read_checkpoint(run), read_checkpoint(undisturbed)) == []
    assert losses(run) == losses(undisturbed)


def test_a_run_can_be_resumed_up_to_the_end_of_its_cosine_and_no_further(stopped: Path, start: Start) -> None:
    """Six steps of 8 in 72 images are one epoch of nine steps; after it the cosine would rise again."""
    assert start(stopped, resume=True, steps=9).step == 9
    with pytest.raises(BadRun, match="9 steps"):
        start(stopped, resume=True, steps=10)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99, 0.99999])
def test_a_checkpoint_that_is_cut_short_is_refused_and_left_alone(undisturbed: Path, tmp_path: Path, share: float) -> None:
    data = (undisturbed / "checkpoint.pt").read_bytes()
    cut = data[: int(len(data) * share)]
    (tmp_path / "checkpoint.pt").write_bytes(cut)
    with pytest.raises(BadRun, match=r"cut short or damaged.*Restore the file from a copy") as refusal:
        read_checkpoint(tmp_path)
    assert "weights_only" not in str(refusal.value)
    assert (tmp_path / "checkpoint.pt").stat().st_size == len(cut)


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_that_would_run_code_is_refused_without_running_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"schema": 1, "step": Evil(trace)}, tmp_path / "checkpoint.pt")
    with pytest.raises(BadRun):
        read_checkpoint(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(pickle.dumps(Evil(trace), protocol=2))
    with pytest.raises(BadRun):
        read_checkpoint(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"schema": 2}, "schema 2; this insloc_hub reads up to 1"),
        ({"state_dict": {}}, "not a checkpoint of insloc pretrain"),
        ([1, 2], "not a checkpoint of insloc pretrain"),
    ],
)
def test_another_file_than_a_checkpoint_of_this_version_is_refused(tmp_path: Path, content: object, problem: str) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(BadRun, match=problem):
        read_checkpoint(tmp_path)


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path: Path, start: Start) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadRun, match=r"no checkpoint\.pt here"):
            start(folder, resume=True)
    assert list(tmp_path.iterdir()) == []


def spoil(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    facts = json.loads((run / "run.json").read_text())
    change(facts)
    (run / "run.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda facts: facts["recipe"].update(temperature=0.1), "another recipe than RUN/run.json says"),
        (lambda facts: facts["recipe"].update(seed=1), "another recipe than RUN/run.json says"),
        (lambda facts: facts["recipe"].update(arch="resnet18"), "another recipe than RUN/run.json says"),
        (lambda facts: facts["recipe"].pop("queue"), r"lacks \['queue'\]"),
        (lambda facts: facts["recipe"].update(colour=1), r"unknown fields \['colour'\]"),
        (lambda facts: facts.update(schema=2), "schema 2; this insloc_hub reads up to 1"),
    ],
)
def test_a_run_file_that_was_changed_is_refused(
    undisturbed: Path, start: Start, tmp_path: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    spoil(run, change)
    with pytest.raises(BadRun, match=problem):
        start(run, resume=True, steps=None)


def test_other_data_are_refused_and_the_checkpoint_stays(undisturbed: Path, start: Start, world: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    before = (run / "checkpoint.pt").read_bytes()
    fewer = Path(shutil.copytree(world / "train", tmp_path / "fewer"))
    next(fewer.rglob("*.jpg")).unlink()
    for data in (world / "val", fewer):
        with pytest.raises(BadRun, match="the images are not those the run was started with"):
            start(run, resume=True, data=data)
    assert (run / "checkpoint.pt").read_bytes() == before


def test_the_same_data_elsewhere_are_the_same(
    stopped: Path, undisturbed: Path, start: Start, world: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(world / "train", tmp_path / "moved"))
    start(stopped, resume=True, steps=None, data=moved)
    assert losses(stopped) == losses(undisturbed)
