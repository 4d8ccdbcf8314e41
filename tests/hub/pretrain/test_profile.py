"""Where the time goes: stages add up to the step, the bottleneck is the one that was made slow."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from insloc_hub.pretrain import profile
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.profile import Profile, bottleneck, no_lap, table
from insloc_hub.pretrain.run import pretrain
from insloc_hub.recipe import Recipe

STAGES = ["data wait", "query forward", "twin update", "key forward", "loss", "backward + update", "enqueue", "the rest"]


def test_a_run_is_timed_by_stage_and_goes_on(
    tiny: Callable[..., Recipe],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(profile, "WARM", 1)
    monkeypatch.setattr(profile, "STEPS", 3)
    finish = pretrain(tiny(), RunOptions(data=world / "train", run=tmp_path / "run", steps=6, profile=True))
    assert finish.step == 6
    facts = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert list(facts["stages_ms"]) == STAGES and facts["steps"] == 3 and facts["device"] == "cpu"
    assert all(value >= 0 for value in facts["stages_ms"].values()) and facts["make_batch_ms"] > 0
    assert facts["stages_ms"]["backward + update"] > facts["stages_ms"]["loss"]
    said = capsys.readouterr().err
    assert "3 steps on cpu" in said and "backward + update" in said and f"bottleneck: {facts['bottleneck']}" in said


def test_a_run_of_one_step_says_that_it_is_too_short(
    tiny: Callable[..., Recipe], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(tiny(), RunOptions(data=world / "train", run=tmp_path / "run", steps=1, profile=True))
    assert "too few steps for a profile" in capsys.readouterr().err
    assert not (tmp_path / "run" / "profile.json").exists()


def test_stages_and_waiting_are_what_was_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def sleep(ms: float) -> None:
        clock[0] += ms / 1000

    timed = Profile(torch.device("cpu"))
    make = timed.making(lambda step: sleep(7))
    while not timed.full():
        make(0)
        sleep(13)  # of waiting: 20 in all
        lap = timed.begin(0.02)
        sleep(50)
        lap("query forward")
        sleep(25)
        lap("loss")
        sleep(5)
    facts = timed.facts()
    assert facts["step_ms"] == pytest.approx(100) and facts["make_batch_ms"] == pytest.approx(7)
    expected = {"data wait": 20, "query forward": 50, "loss": 25, "the rest": 5}
    assert facts["stages_ms"] == pytest.approx(expected, abs=0.01)
    assert facts["bottleneck"].startswith("data: 20% of the time is spent waiting. Making a batch takes 7 ms")
    assert "query forward           50.0 ms   50%" in table(facts)
    assert facts["steps"] == profile.STEPS


def test_without_waiting_the_longest_stage_is_the_bottleneck() -> None:
    found = bottleneck({"data wait": 2.0, "query forward": 20.0, "backward + update": 60.0, "the rest": 18.0}, 100.0, 5.0)
    assert found.startswith("backward + update: 60% of the time; data are ready in time (2% waiting)")


def test_an_untimed_step_tells_nobody() -> None:
    assert no_lap("loss") is None
