"""docs/publish.md: its commands run as they stand, one after the other, with the real clients in processes of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from registry import Registry

from insloc_hub.cli import main
from insloc_hub.files import write_json
from insloc_hub.models.create import create_model, weights_digest
from insloc_hub.records import DataFacts, Metric, ModelFacts, Result

PAGE = (Path(__file__).parents[3] / "docs" / "publish.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S)
REPO = "lab/resnet18.insloc_c4_photos"


def write_record(run: Path, folder: Path) -> None:
    """What `insloc-eval run` would leave, without the minute that it takes."""
    result = Result(
        task="linear",
        protocol="linear/sweep@1",
        protocol_hash="b" * 64,
        model=ModelFacts(spec="runs/first", arch="resnet18", sha256=weights_digest(create_model(str(run)))),
        data=DataFacts(name="labelled", split="val", fingerprint="a" * 64, n=36),
        pretrain_seed=0,
        eval_seed=0,
        metrics={"top1": Metric(value=0.25, low=0.1, high=0.4, unit="share", n=36)},
    )
    write_json(folder / "linear" / f"{result.id}.json", result.as_dict())


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["the push", "the whole page"])
def test_the_page_s_commands_lead_from_a_run_to_a_model_of_the_hub(
    hub: Registry, exported_run: Path, world: Path, tmp_path: Path, whole: bool
) -> None:
    shutil.copytree(exported_run, tmp_path / "runs/first")
    (tmp_path / "labelled").symlink_to(world)
    assert len(BLOCKS) == 5 and BLOCKS[4] == "insloc mirror published\n"  # tests/server runs that command
    dry, judge, push, use = BLOCKS[:4]
    assert "--dry-run" in dry and judge.startswith("insloc-eval run ")
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(script: str) -> str:
        done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert hub.token not in done.stdout + done.stderr
        return done.stdout

    if whole:
        assert "nothing was sent" in run(dry) and not hub.repos
        run(judge)
    else:
        write_record(exported_run, tmp_path / "results")
    assert "export HF_TOKEN=hf_...  #" in push
    said = run(push.replace("hf_...", hub.token))
    assert f"published: {REPO} at {hub.repos[REPO].head}\n" in said
    assert "its name here is insloc_resnet18.c4_photos" in said
    weights = (exported_run / "model" / "model.safetensors").read_bytes()
    assert hub.repos[REPO].files["model.safetensors"] == weights
    card = ModelCard(hub.repos[REPO].files["README.md"].decode())
    assert (card.data.license, card.data.datasets) == ("apache-2.0", ["photos"])
    assert {result.dataset_config for result in card.data.eval_results} >= {"linear/sweep@1"}
    if whole:
        run(use)


def test_a_refusal_is_a_sentence_and_exit_code_2(
    hub: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["insloc", "publish", "nowhere", "--repo", "lab/x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and hub.asked == []
    assert capsys.readouterr() == ("", "insloc: nowhere: no such folder or file\n")
