"""What a run tells: the keys' measures in metrics.jsonl, the line on the screen, an alarm and what --strict makes of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_hub.errors import Collapsed
from insloc_hub.pretrain import watch
from insloc_hub.pretrain.loop import Finish
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.resume import read_checkpoint
from insloc_hub.pretrain.run import pretrain
from insloc_hub.recipe import Recipe

Start = Callable[..., Finish]


def lines_of(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts after two steps, on two steps, and a line on the screen for each."""
    monkeypatch.setattr(watch, "WINDOW", 2)
    monkeypatch.setattr(watch, "PATIENCE", 2)
    monkeypatch.setattr("insloc_hub.pretrain.watch.EVERY", 2)
    monkeypatch.setattr("insloc_hub.pretrain.journal.EVERY", 2)
    monkeypatch.setattr("insloc_hub.progress.LINE_EVERY_S", 0.0)


def collapsing(tiny: Callable[..., Recipe], world: Path, run: Path, *, strict: bool) -> Finish:
    recipe = tiny(temperature=50.0, queue=16, epochs=1)
    return pretrain(recipe, RunOptions(data=world / "train", run=run, steps=8, strict=strict))


@pytest.mark.usefixtures("hasty")
def test_a_collapse_is_printed_once_stands_in_the_metrics_and_lets_the_run_go_on(
    tiny: Callable[..., Recipe], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collapsing(tiny, world, tmp_path / "run", strict=False).step == 8
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines if "alarm" in line] == [4] and lines[3]["alarm"] == "plateau"
    assert [line["step"] for line in lines if "rank" in line] == [2, 4, 6, 8]
    for line in lines[1::2]:
        (spread,), (rank,), (gap,) = line["spread"], line["rank"], line["gap"]  # type: ignore[misc]
        assert 0 < spread < 1 and 1 <= rank <= 7 and 0 <= gap < 2
    said = capsys.readouterr().err
    assert said.count("COLLAPSE (plateau) at step 4: the loss") == 1
    screen = r"\d+/s, \d+ s left loss 2\.8\d of 2\.83, accuracy \d+ %, effective rank \d of 7, waits for data \d+%"
    assert re.search(screen, said), said


@pytest.mark.usefixtures("hasty")
def test_a_strict_run_that_collapses_is_saved_and_ends_in_an_error(
    tiny: Callable[..., Recipe], world: Path, tmp_path: Path
) -> None:
    with pytest.raises(Collapsed, match=r"saved at step 5, stopped since --strict was given: the loss .* stands at ln") as end:
        collapsing(tiny, world, tmp_path / "run", strict=True)
    assert end.value.step == read_checkpoint(tmp_path / "run")["step"] == len(lines_of(tmp_path / "run")) == 5
