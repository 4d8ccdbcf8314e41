"""Killed without a word, or two at once on one folder: the records are those of an undisturbed run."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insloc_eval.run import evaluate
from insloc_eval.store import browse

MODELS = ["random:resnet18", "random:resnet18@7"]
TASK = "knn/dino"
RECORDS = 3  # two models and the random row with ordinary norms


def command(world: Path, place: Path) -> list[str]:
    asked = [word for name in MODELS for word in ("--model", name)] + ["--task", TASK]
    folders = ["--data", str(world), "--out", str(place / "results"), "--cache", str(place / "features")]
    limits = ["--train-limit", "24", "--test-limit", "12", "--device", "cpu"]
    return [sys.executable, "-m", "insloc_eval.cli", "run", *asked, *folders, *limits]


def start(world: Path, place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(world, place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def essence(place: Path) -> dict[str, object]:
    shelf = browse(place / "results")
    assert shelf.problems == []
    return {result.id: result.metrics for result in shelf.results}


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("undisturbed")
    results = evaluate(MODELS, [TASK], world, out, train_limit=24, test_limit=12, cache=out / "cache", device="cpu")
    assert len(results) == RECORDS
    return {result.id: result.metrics for result in results}


def wait_for_records(place: Path, wanted: int) -> None:
    give_up = time.monotonic() + 120
    while len(list(place.glob("results/*/*.json"))) < wanted and time.monotonic() < give_up:
        time.sleep(0.01)


def test_of_two_processes_on_one_folder_one_is_killed_and_the_records_are_those_of_an_undisturbed_run(
    undisturbed: dict[str, object], world: Path, tmp_path: Path
) -> None:
    first, second = start(world, tmp_path), start(world, tmp_path)
    wait_for_records(tmp_path, random.randint(0, RECORDS - 1))
    time.sleep(random.random() / 4)
    first.kill()
    assert first.wait(timeout=60) in (-9, 0) and second.wait(timeout=200) == 0
    assert essence(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_again_and_again_ends_with_the_same_records(
    undisturbed: dict[str, object], world: Path, tmp_path: Path
) -> None:
    draw = random.Random()
    for _ in range(6):
        process = start(world, tmp_path)
        wait_for_records(tmp_path, draw.randint(0, RECORDS - 1))
        time.sleep(draw.random())
        process.kill()
        process.wait(timeout=60)
    assert subprocess.run(command(world, tmp_path), capture_output=True, timeout=200).returncode == 0
    assert essence(tmp_path) == undisturbed
