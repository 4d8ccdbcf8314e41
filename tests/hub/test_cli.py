"""`insloc` from outside: exit codes, one sentence per mistake, nothing half-made, Ctrl-C and going on."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from insloc_hub.cli import main
from insloc_hub.recipes import RECIPES

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::ResourceWarning"}
TINY = ["--arch", "resnet10t", "--canvas", "64", "--batch", "8", "--queue", "16"]
START = "import sys; from insloc_hub.cli import main; main()"
# Ends like main(), and tells on stderr whether torch was needed.
WATCHED = """
import sys
from insloc_hub.cli import main
try:
    main()
finally:
    print("\\nHEAVY", [n for n in ("torch", "timm") if n in sys.modules], file=sys.stderr)
"""

Done = subprocess.CompletedProcess[str]
Insloc = Callable[..., Done]


@pytest.fixture
def insloc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Insloc:
    """Runs `insloc ARGS` in an empty folder, in this process: a new one would import torch each time."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["insloc", *map(str, args)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return subprocess.CompletedProcess(args, code if isinstance(code, int) else 1, said.out, said.err)

    return run


def one_sentence(done: Done) -> str:
    """The complaint of a refused command: exit code 2, the last line on stderr, no traceback."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr and done.stdout == ""
    lines = [line for line in done.stderr.strip().splitlines() if line and not line.startswith("HEAVY")]
    assert lines[-1].startswith("insloc: ") and len([line for line in lines if line.startswith("insloc:")]) == 1
    return lines[-1].removeprefix("insloc: ")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


REFUSED_AT_ONCE = [
    (["--recipe", "insloc_c4_smal"], "unknown recipe 'insloc_c4_smal'; did you mean 'insloc_c4_small'"),
    (["--batch", "6"], "batch 6 does not split into 2 groups of at least 4 images"),
    (["--batch", "0"], "batch 0 must be positive"),
    (["--batch", "-8"], "batch -8 must be positive"),
    (["--bn-groups", "0"], "bn_groups 0 must be positive"),
    (["--canvas", "100"], "canvas 100 must be a multiple of 32, at least 64"),
    (["--queue", "100"], "queue 100 must be a multiple of the batch 32; the nearest is 96"),
    (["--queue", "0"], "queue 0 must be positive"),
    (["--epochs", "0"], "epochs 0 must be positive"),
    (["--steps", "0"], "steps 0 must be positive"),
    (["--steps", "-5"], "steps -5 must be positive"),
    (["--lr", "-1"], "learning rate -1.0"),
    (["--lr", "nan"], "learning rate nan"),
    (["--seed", "-1"], "seed -1 must lie in"),
    (["--cache-gib", "nan"], "cache-gib nan"),
    (["--time-limit", "9"], "time limit '9' is no duration; say it as 90s, 9m or 2h"),
    (["--time-limit", "0m"], "time limit '0m' is no duration"),
    (["--resume", "maybe"], "--resume maybe is unknown; say --resume alone, or --resume auto"),
    (["--resume", "--arch", "resnet18"], "--resume takes the recipe from run.json; leave out --arch"),
    (["--resume", "--lr", "0.1", "--batch", "8"], "leave out --batch --lr"),
    (["--resume", "--recipe", "insloc_c4_small"], "leave out --recipe"),
]


@pytest.mark.parametrize(("flags", "said"), REFUSED_AT_ONCE, ids=[" ".join(flags) for flags, _ in REFUSED_AT_ONCE])
def test_a_wrong_flag_is_refused_without_torch(tmp_path: Path, flags: list[str], said: str) -> None:
    args = [sys.executable, "-c", WATCHED, "pretrain", "--data", ".", "--out", "run", *flags]
    done = subprocess.run(args, capture_output=True, text=True, cwd=tmp_path, env=ENV, timeout=60)
    assert said in one_sentence(done)
    assert "HEAVY []" in done.stderr
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data", "nowhere"], "nowhere: no such folder or file"),
        (["--data", ".", "--hours", "0"], "hours 0.0 must be a positive number"),
        (["--data", ".", "--hours", "nan"], "hours nan must be"),
    ],
)
def test_a_plan_of_nothing_is_refused_without_torch(tmp_path: Path, flags: list[str], said: str) -> None:
    args = [sys.executable, "-c", WATCHED, "plan", *flags]
    done = subprocess.run(args, capture_output=True, text=True, cwd=tmp_path, env=ENV, timeout=60)
    assert said in one_sentence(done)
    assert "HEAVY []" in done.stderr


@pytest.mark.parametrize(
    "name", ["plan", "pretrain", "recipes", "export", "models", "fetch", "convert", "verify", "pull", "mirror", "demo"]
)
def test_the_help_of_every_command_shows_an_example(insloc: Insloc, name: str) -> None:
    assert f"insloc {name}" in insloc(name, "--help").stdout.split("For example:")[1]


def test_recipes_are_listed_with_what_they_are(insloc: Insloc) -> None:
    lines = insloc("recipes").stdout.splitlines()
    assert len(lines) == len(RECIPES) and lines[0].startswith("insloc_c4_small ")
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


@pytest.mark.parametrize(
    "args",
    [
        ["pretrain"],
        ["pretrain", "--data", "."],
        ["pretrain", "--data", ".", "--out", "r", "--batch", "many"],
        ["nothing"],
        ["export"],
    ],
)
def test_a_command_line_that_says_too_little_is_refused_with_code_2(insloc: Insloc, tmp_path: Path, args: list[str]) -> None:
    done = insloc(*args)
    assert done.returncode == 2 and "Traceback" not in done.stderr and files(tmp_path) == []


@pytest.fixture
def data(photos: Path, tmp_path: Path) -> Path:
    """Beside the working folder: what a run leaves there is the run's."""
    return Path(shutil.copytree(photos, tmp_path.parent / f"{tmp_path.name}-data"))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def leave_one(folder: Path) -> None:
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()


def only_text(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text("no image")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no such folder or file"),
        (empty, "no image in this folder"),
        (leave_one, "at least 2 readable images; 1 of 1 are"),
        (only_text, "at least 2 readable images; 0 of 24 are"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_and_no_run_is_made(
    insloc: Insloc, data: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(data)
    complaint = one_sentence(insloc("pretrain", "--data", data, "--out", "run", *TINY))
    assert said in complaint and str(data) in complaint
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("resnet5O", "unknown timm architecture 'resnet5O'; did you mean 'resnet50"),
        ("mobilenetv3_small_050", "mobilenetv3_small_050 has no single last stage"),
        ("vit_tiny_patch16_224", "can't be built on it"),
    ],
)
def test_an_architecture_that_will_not_do_is_refused_and_no_run_is_made(
    insloc: Insloc, photos: Path, tmp_path: Path, arch: str, said: str
) -> None:
    assert said in one_sentence(insloc("pretrain", "--data", photos, "--out", "run", "--arch", arch, *TINY[2:]))
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written_is_refused(insloc: Insloc, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/run"):
        complaint = one_sentence(insloc("pretrain", "--data", photos, "--out", out, *TINY))
        assert f"can't write {out}" in complaint and "Choose another place" in complaint
    assert files(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_refused(insloc: Insloc, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "can't write" in one_sentence(insloc("pretrain", "--data", photos, "--out", "locked/run", *TINY))
    assert files(tmp_path) == ["locked"]


def test_an_unknown_device_is_refused(insloc: Insloc, photos: Path, tmp_path: Path) -> None:
    complaint = one_sentence(insloc("pretrain", "--data", photos, "--out", "run", "--device", "gpu", *TINY))
    assert "unknown device 'gpu'; say auto, cpu, cuda or cuda:N" in complaint and files(tmp_path) == []


def test_a_run_from_start_to_export_skipping_and_naming_what_is_no_image(insloc: Insloc, data: Path, tmp_path: Path) -> None:
    (data / "text.jpg").write_text("no image")
    done = insloc("pretrain", "--data", data, "--out", "run", "--steps", "2", *TINY)
    assert done.returncode == 0, done.stderr
    assert "skipped 1 of 25 images" in done.stderr and "text.jpg" in done.stderr
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert list(facts["data"]["skipped"]) == ["text.jpg"]
    assert shlex.split(facts["command"])[:2] == ["insloc", "pretrain"] and "--steps 2" in facts["command"]
    assert "wrote run/model" in done.stdout
    model = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True, num_classes=0)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 512)
    again = insloc("pretrain", "--data", data, "--out", "run", "--steps", "2", *TINY)
    assert "run holds a run already. Add --resume to continue it, or choose another --out" in one_sentence(again)


def test_a_checkpoint_cut_short_is_refused_by_resume_and_export(
    insloc: Insloc, finished_run: Path, photos: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    data = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(data[: len(data) // 2])
    before = files(run)
    for args in (["pretrain", "--data", photos, "--out", "run", "--resume"], ["export", "run"]):
        assert "cut short or damaged" in one_sentence(insloc(*args))
    assert files(run) == before and (run / "checkpoint.pt").stat().st_size == len(data) // 2


def test_exporting_what_is_no_run_is_refused(insloc: Insloc, tmp_path: Path) -> None:
    assert "nowhere: no checkpoint.pt here" in one_sentence(insloc("export", "nowhere"))
    assert files(tmp_path) == []


def test_models_are_listed_and_it_is_said_where_one_goes(insloc: Insloc, tmp_path: Path) -> None:
    done = insloc("models")
    assert done.returncode == 0 and done.stdout.startswith("arch ")
    assert done.stdout.count("never seen by us") == 4 and "insloc_ARCH.TAG" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "say what to fetch"),
        (["resnet18"], "'resnet18' is nothing to fetch"),
        (["insloc_resnet50.c4_200ep"], "unknown card 'insloc_resnet50.c4_200ep'; did you mean"),
        (["insloc_resnet50.c4_200ep_in1k"], "insloc fetch insloc_resnet50.c4_200ep_in1k --official FILE"),
        (["--official", "none.pkl"], "none.pkl: no such file"),
        (["hf-hub:nobody"], "a Hub model is hf-hub:ORG/NAME"),
    ],
)
def test_what_can_not_be_fetched_is_refused(insloc: Insloc, tmp_path: Path, args: list[str], said: str) -> None:
    assert said in one_sentence(insloc("fetch", *args))
    assert files(tmp_path) == []


def test_one_command_starts_stops_at_its_time_limit_and_goes_on(insloc: Insloc, photos: Path, tmp_path: Path) -> None:
    again = ["pretrain", "--data", photos, "--out", "run", "--steps", "3", "--resume", "auto", *TINY]
    first = insloc(*again, "--time-limit", "0.001s")
    assert first.returncode == 75, first.stderr
    assert "stopped at step 1 of 3, saved. Go on: insloc pretrain" in first.stdout
    assert not (tmp_path / "run" / "model").exists()
    other = insloc(*again, "--lr", "0.5")
    assert "run holds a run of another recipe than these flags ask for" in one_sentence(other)
    assert insloc(*again, "--time-limit", "0.001s").returncode == 75
    last = insloc(*again, "--time-limit", "2h")
    assert last.returncode == 0 and "resuming run at step 2 of 3" in last.stderr and "wrote run/model" in last.stdout
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_strict_refuses_what_the_data_would_change_and_makes_no_run(insloc: Insloc, photos: Path, tmp_path: Path) -> None:
    args = ["pretrain", "--data", photos, "--out", "run", "--steps", "2", "--strict", *TINY]
    complaint = one_sentence(insloc(*args))
    assert "queue 16 -> 8: with 24 images" in complaint and "epochs 50 -> 1" in complaint and "leave --strict out" in complaint
    assert files(tmp_path) == []
    assert insloc(*args, "--epochs", "1", "--queue", "8").returncode == 0


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run did not start in time"
        time.sleep(0.1)


def test_a_stopped_run_saves_exits_with_130_and_goes_on_by_the_command_it_prints(
    insloc: Insloc, photos: Path, tmp_path: Path
) -> None:
    args = ["pretrain", "--data", str(photos), "--out", "run", "--steps", "100000", *TINY]
    with subprocess.Popen(
        [sys.executable, "-c", START, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=ENV
    ) as process:
        wait_for((tmp_path / "run" / "metrics.jsonl").exists, process)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    step = int(out.split("stopped at step ")[1].split()[0])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert step >= 1 and json.loads(lines[-1])["step"] == step and len(lines) == step
    assert not (tmp_path / "run" / "model").exists()

    words = shlex.split(out.split("Go on: ")[1])
    assert words[0] == "insloc" and "--resume" in words
    on = insloc(*words[1:], "--steps", step + 2)
    assert on.returncode == 0, on.stderr
    assert f"resuming run at step {step} of {step + 2}" in on.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 3))
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
