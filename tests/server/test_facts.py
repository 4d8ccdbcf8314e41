"""The model's name on the server."""

import json
import shutil

import pytest
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from insloc_hub import create_model, load
from insloc_server.app import create_app
from insloc_server.engine import model_id


@pytest.mark.parametrize("spec", ["random:resnet18", "random:resnet18@3", "resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"])
def test_a_model_that_is_no_folder_is_called_by_its_spec(spec):
    assert model_id(spec) == spec


def test_an_exported_folder_is_called_by_its_own_name_and_a_run_by_the_run_s(tmp_path, monkeypatch):
    for folder in ("card", "runs/first/model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    names = [model_id(spec) for spec in (str(tmp_path / "card"), "runs/first", "local-dir:runs/first/model", "./card")]
    assert names == ["card", "first", "first", "card"]


def test_a_loaded_model_does_not_need_its_folder_any_more(tmp_path, make_settings, png, post_raw):
    folder = tmp_path / "runs" / "first" / "model"
    folder.mkdir(parents=True)
    facts = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "crop_pct": 0.875}
    config = {"architecture": "resnet18", "num_classes": 0, "pretrained_cfg": {**facts, "num_classes": 0}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(create_model("random:resnet18@5").state_dict(), folder / "model.safetensors")
    spec = str(tmp_path / "runs" / "first")
    wanted = load("random:resnet18@5").sha256
    with TestClient(create_app(make_settings(model=spec))) as client:
        shutil.rmtree(tmp_path / "runs")
        answer = post_raw(client, png, model="first", transform="whole").json()
        who = {"id": "first", "spec": spec, "arch": "resnet18", "sha256": wanted, "engine": "eager", "precision": "fp32"}
        assert answer["model"] == who
        assert client.get("/v1/models/first").json()["input_size"] == [64, 64]
