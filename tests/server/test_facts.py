"""The model's name on the server."""

import pytest

from insloc_server.facts import model_id


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
