"""The reference run's command at toy sizes: what it refuses, what is cut and goes on, and the whole of it (slow)."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insloc_eval.job import OutOfTime
from insloc_eval.store import browse
from insloc_hub.errors import BadRun, InslocError

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import reference_run  # noqa: E402
from reference import detect, judge, plan, report, train  # noqa: E402

TOY = dataclasses.replace(plan.DRY, tasks=("patches/relocate",), mosaic=False, test_limit=6, seeds=(1,), stages=("main",))
ENDLESS = train.Clock()


@pytest.fixture
def asked(world: Path, tmp_path: Path) -> plan.Asked:
    return plan.Asked(out=tmp_path / "out", data=world, setting=TOY, stages=TOY.stages, seeds=TOY.seeds, device="cpu")


def pretend(asked: plan.Asked, arm: str, seed: int) -> Path:
    """A run folder as a finished run leaves it, as far as the stages look at it."""
    run = train.run_folder(asked, arm, seed)
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text(json.dumps({"insloc": {"steps": 2}}))
    (run / "run.json").write_text(json.dumps({"schema": 1, "total_steps": 2}))
    return run


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def essence(folder: Path) -> dict[str, object]:
    return {result.id: result.metrics for result in browse(folder).results}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stages": ("maim",)}, "unknown stage 'maim'"),
        ({"seeds": (1, 1)}, "different numbers"),
        ({"budget": 0.0}, "above 0"),
        ({"budget": 2.0, "seeds": (1, 2)}, "minutes go to seeds, not to epochs"),
    ],
)
def test_what_the_plan_does_not_allow_is_refused(asked: plan.Asked, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(InslocError, match=problem):
        dataclasses.replace(asked, **changes)  # type: ignore[arg-type]


def test_arms_differ_in_what_the_ladder_says_and_in_nothing_else(asked: plan.Asked) -> None:
    full = dataclasses.replace(asked, setting=plan.FULL, seeds=(1, 2, 3), budget=0.5)
    rungs = [plan.recipe_of(full, arm, 1, {}).as_dict() for arm in ("moco_v2", "paste_whole", "paste_box", "insloc_c4")]
    changed = [{key for key in a if a[key] != b[key]} - {"name"} for a, b in itertools.pairwise(rungs)]
    assert changed == [{"views"}, {"variant"}, {"augment_levels"}]
    assert {rung["epochs"] for rung in rungs} == {30} and full.steps() is None
    assert plan.recipe_of(full, "insloc_c4", 0, plan.TRIES["lr03"], 15).learning_rate == 0.03


def test_both_methods_have_the_same_tries_and_every_stage_has_its_minutes() -> None:
    assert len(plan.TRIES) == 4 and plan.TRIES["first"] == {}
    assert all(stage.minutes for stage in plan.STAGES)


def test_a_cut_run_goes_on_to_the_weights_of_an_undisturbed_one(asked: plan.Asked) -> None:
    recipe = plan.recipe_of(asked, "insloc_c4", 1, {})
    cut, whole = asked.out / "runs" / "cut", asked.out / "runs" / "whole"
    with pytest.raises(OutOfTime):
        train.train_run(asked, recipe, cut, train.Clock(deadline=time.monotonic() + 0.01))  # reading images takes longer
    assert (cut / "checkpoint.pt").exists() and not train.finished(cut)
    for run in (cut, whole):
        train.train_run(asked, recipe, run, ENDLESS)
        assert train.finished(run)
    assert weights(cut) == weights(whole)
    lines = [json.loads(line) for line in (asked.out / "log.jsonl").read_text().splitlines()]
    assert [(line["run"], line["step"]) for line in lines] == [("cut", 1), ("cut", 2), ("whole", 2)]


def test_one_arm_is_trained_judged_on_half_a_and_reported(asked: plan.Asked) -> None:
    train.train_arms(asked, ("insloc_c4",), ENDLESS)
    results = judge.judge(asked, judge.finished_runs(asked), "A", ENDLESS)
    specs = {result.model.spec for result in results}
    assert {Path(spec).name for spec in specs if not spec.startswith("random:")} == {"insloc_c4-s1"} and len(specs) >= 2
    assert {result.data.split for result in results} == {"test of train/ and val/, half A of the test images"}
    assert {result.data.n for result in results} == {6}
    page = report.report(asked).read_text()
    assert "the control has no record" in page and "half A" in page and "first values: no pilot was judged" in page
    before = essence(asked.records)
    judge.judge(asked, judge.finished_runs(asked), "A", ENDLESS)
    assert essence(asked.records) == before


def test_detectors_cut_by_the_time_limit_go_on_to_the_records_of_undisturbed_ones(asked: plan.Asked) -> None:
    asked = dataclasses.replace(asked, setting=dataclasses.replace(TOY, detection=()), bccd=asked.data)
    train.train_arms(asked, ("insloc_c4",), ENDLESS)
    cut = dataclasses.replace(asked, out=asked.out.with_name("cut"))
    shutil.copytree(asked.out / "runs", cut.out / "runs")
    limit, cuts, results = 0.25, 0, []
    while not results:
        try:
            results = detect.detect(cut, train.Clock(deadline=time.monotonic() + limit))
        except OutOfTime:
            limit, cuts = 2 * limit, cuts + 1
    assert cuts and {result.protocol for result in results} == {"detection/quick-c4@1+scaled"}
    assert [Path(result.model.spec).name for result in results] == ["insloc_c4-s1", "random:test_resnet"]
    detect.detect(asked, ENDLESS)
    assert essence(cut.records) == essence(asked.records) and len(essence(asked.records)) == 2
    assert judge.looks(cut) == []  # the blood cells have no halves
    page = report.report(asked).read_text()
    assert "insloc_c4 minus random:test_resnet" in page and "AP50: " in page


def test_without_blood_cells_the_stage_says_so_and_goes_on_to_what_opens_half_b(
    asked: plan.Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadRun, match="no finished run of insloc_c4 or moco_v2"):
        detect.detect(asked, ENDLESS)
    pretend(asked, "insloc_c4", 1)
    with pytest.raises(BadRun, match=r"half B is looked at once.*of insloc_c4 there are 1"):
        detect.detect(asked, ENDLESS)
    assert "BCCD is left out" in capsys.readouterr().err
    assert '"left_out": "detection/quick-c4"' in (asked.out / "log.jsonl").read_text() and judge.looks(asked) == []


def test_blood_cells_are_found_where_they_are_unpacked_and_refused_where_they_were_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSLOC_DATA", str(tmp_path))
    (tmp_path / "bccd").mkdir()
    (tmp_path / "bccd" / "bccd.tar").touch()
    assert reference_run.blood_cells(None, False) is None
    with pytest.raises(InslocError, match="no boxes there"):
        reference_run.blood_cells(tmp_path / "bccd", False)
    (tmp_path / "bccd" / "Annotations").mkdir()
    (tmp_path / "bccd" / "Annotations" / "a.xml").touch()
    assert reference_run.blood_cells(None, False) == tmp_path / "bccd" == reference_run.blood_cells(tmp_path / "bccd", True)
    assert reference_run.blood_cells(None, True) is None


def test_half_b_opens_with_three_seeds_of_both_arms_and_leaves_a_trace(asked: plan.Asked) -> None:
    asked = dataclasses.replace(asked, seeds=(1, 2, 3))
    for seed in (1, 2, 3):
        pretend(asked, "insloc_c4", seed)
    for seed in (1, 2):
        pretend(asked, "moco_v2", seed)
    with pytest.raises(BadRun, match="of moco_v2 there are 2"):
        judge.open_half_b(asked, judge.finished_runs(asked))
    assert judge.looks(asked) == []
    pretend(asked, "moco_v2", 3)
    judge.open_half_b(asked, judge.finished_runs(asked))
    judge.open_half_b(asked, judge.finished_runs(asked))  # gone on with: no second look
    pretend(asked, "insloc_fpn", 1)
    judge.open_half_b(asked, judge.finished_runs(asked))
    assert [line["look"] for line in judge.looks(asked)] == [1, 2]
    assert judge.looks(asked)[1]["runs"] == ["insloc_fpn-s1"] and len(judge.looks(asked)[0]["runs"]) == 6
    assert "look 2: insloc_fpn-s1" in "\n".join(report.openings(asked))


def test_nothing_is_chosen_after_half_b_was_opened(asked: plan.Asked) -> None:
    asked.out.mkdir()
    (asked.out / judge.LOOKS).write_text("{}\n")
    with pytest.raises(BadRun, match="half B was opened"):
        judge.run_pilots(asked, plan.PRIMARY_ARMS, ENDLESS)
    assert not (asked.out / "runs").exists()


def test_the_best_try_is_taken_by_the_arms_that_follow_and_is_kept_once_runs_began(asked: plan.Asked) -> None:
    scores = {"insloc_c4": {"first": 0.1, "lr03": 0.2, "lr12": 0.2}, "moco_v2": {"first": 0.3, "lr03": 0.2, "lr12": 0.1}}
    train.settle_choice(asked, scores)
    assert train.choice(asked) == {"insloc_c4": "lr03", "moco_v2": "first"}
    assert {plan.CHOICE_OF[arm] for arm in ("insloc_fpn", "paste_whole", "paste_box")} == {"insloc_c4"}
    assert any("`lr12` 0.2000" in line for line in report.tries(asked))
    with pytest.raises(BadRun, match="take a new --out"):
        train.settle_choice(asked, {**scores, "moco_v2": {"first": 0.1, "lr03": 0.2}})


def test_a_time_that_is_over_and_images_that_are_not_named_have_their_own_ends(
    asked: plan.Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reference_run.work_through(asked, time.monotonic() - 1) == reference_run.OUT_OF_TIME
    assert not (asked.out / "runs").exists()
    monkeypatch.delenv("INSLOC_DATA", raising=False)
    with pytest.raises(InslocError, match="set INSLOC_DATA"):
        reference_run.default_data()


def test_a_folder_belongs_to_one_setting(asked: plan.Asked) -> None:
    reference_run.open_folder(asked)
    reference_run.open_folder(asked)
    with pytest.raises(BadRun, match="take another --out"):
        reference_run.open_folder(dataclasses.replace(asked, budget=0.5))


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, str(FOLDER / "reference_run.py"), "--out", str(out), "--dry-run", *more]


def test_the_command_lists_its_stages_and_refuses_in_a_sentence(tmp_path: Path) -> None:
    listed = subprocess.run([*command(tmp_path)[:-1], "--list"], capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0 and "tin-low-10" in listed.stdout and len(listed.stdout.splitlines()) == len(plan.STAGES)
    for words, problem in ((("--stages", "maim"), "unknown stage 'maim'"), (("--time-limit", "soon"), "is no duration")):
        refused = subprocess.run(command(tmp_path, *words), capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2 and refused.stderr.startswith("reference_run: ") and problem in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_dry_run_goes_through_every_stage_in_5_minutes(tmp_path: Path) -> None:
    before = os.times()
    done = subprocess.run(command(tmp_path / "out"), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    after = os.times()  # processor time: a machine with other work to do must not fail this
    assert after.children_user + after.children_system - before.children_user - before.children_system < 300
    out = tmp_path / "out"
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in logged if "stage" in line] == [stage.name for stage in plan.STAGES]
    page = (out / "report.md").read_text()
    for words in ("insloc_fpn minus moco_v2", "half B", "regions/mosaic-b@1", "look 1:", "3 and 3 pretraining seeds"):
        assert words in page
    for words in ("detection/quick-c4@1+scaled", "insloc_c4 minus random:test_resnet", "3 and 3 fine-tunings"):
        assert words in page
    assert [line["left_out"] for line in logged if "left_out" in line] == ["detection/quick-c4"]
    assert set(json.loads((out / "profile.json").read_text())) == set(plan.PRIMARY_ARMS)


@pytest.mark.slow
def test_a_killed_dry_run_goes_on_to_the_same_records(tmp_path: Path) -> None:
    some = ("--stages", "main", "judge-a", "report", "--seeds", "1")
    undisturbed = subprocess.run(command(tmp_path / "whole", *some), capture_output=True, text=True, timeout=600)
    assert undisturbed.returncode == 0, undisturbed.stderr
    kills = 0
    for wanted in ("runs/insloc_c4-s1/model/config.json", "records/patches/*.json", "records/linear/*.json"):
        process = subprocess.Popen(command(tmp_path / "killed", *some), stderr=subprocess.DEVNULL)
        while process.poll() is None and not list((tmp_path / "killed").glob(wanted)):
            time.sleep(0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 3
    last = subprocess.run(command(tmp_path / "killed", *some), capture_output=True, text=True, timeout=600)
    assert last.returncode == 0, last.stderr
    ended = essence(tmp_path / "killed" / "records")
    assert ended == essence(tmp_path / "whole" / "records") and len(ended) == 16
