"""Records on a card: the model-index that the Hub's own parsers read back, what stays, what is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard
from registry import Registry
from safetensors.torch import load_file, save_file

from insloc_hub.errors import BadData
from insloc_hub.files import sha256_file, write_json
from insloc_hub.models.create import create_model, weights_digest
from insloc_hub.models.listing import card_scores, table
from insloc_hub.records import DataFacts, Metric, ModelFacts, Result

REPO = "lab/test_resnet.insloc_c4_photos"

Push = Callable[..., list[str]]


def text_of(hub: Registry) -> str:
    return hub.repos[REPO].files["README.md"].decode()


@pytest.fixture
def results(small_run: Path, tmp_path: Path) -> list[Result]:
    """Three records in tmp_path/results: two protocols of the run's weights, and another network's."""
    sha256 = weights_digest(create_model(str(small_run)))
    photos = DataFacts(name="photos", split="train -> val", fingerprint="a" * 64, n=36)
    first = Result(
        task="linear",
        protocol="linear/sweep@1",
        protocol_hash="b" * 64,
        model=ModelFacts(spec="runs/first", arch="test_resnet", sha256=sha256),
        data=photos,
        pretrain_seed=0,
        eval_seed=3,
        metrics={
            "top1": Metric(value=1 / 3, low=0.1234567890123456, high=0.5, unit="share", n=36),
            "top5": Metric(value=0.7, low=0.6, high=0.8, unit="share", n=36),
        },
        rows={"chance": {"top1": 1 / 12}},
        notes=("Two images could not be read: a | and 'quotes'.",),
    )
    second = dataclasses.replace(first, task="patches", protocol="patches/relocate@1", pretrain_seed=None)
    other = dataclasses.replace(first, model=dataclasses.replace(first.model, sha256="c" * 64))
    for result in (first, second, other):
        write_json(tmp_path / "results" / result.task / f"{result.id}.json", result.as_dict())
    return [first, second]


def test_records_of_these_weights_become_a_model_index_that_is_read_back_without_loss(
    hub: Registry, push: Push, tmp_path: Path, results: list[Result]
) -> None:
    said = push(records=tmp_path / "results")
    assert f"{tmp_path / 'results'}: 2 records of these weights, 1 of others or without numbers" in said
    card = ModelCard(text_of(hub))
    found: dict[tuple[str, str], EvalResult] = {(r.dataset_config, r.metric_type): r for r in card.data.eval_results}
    assert len(found) == len(card.data.eval_results) == 4 and card.data.model_name == "test_resnet.insloc_c4_photos"
    for result in results:
        for name, metric in result.metrics.items():
            line = found[result.protocol, name]
            seeds = {} if result.pretrain_seed is None else {"pretrain_seed": result.pretrain_seed}
            rows = {"rows": {"chance": 1 / 12}} if name == "top1" else {}
            assert line.metric_value == metric.value
            assert line.metric_args == {
                **{"low": metric.low, "high": metric.high, "unit": "share", "n": 36, "eval_seed": 3, "record": result.id},
                **{"protocol_hash": result.protocol_hash, "notes": list(result.notes), **seeds, **rows},
            }
            assert (line.dataset_name, line.dataset_split) == (result.data.name, result.data.split)
            assert (line.dataset_revision, line.task_name) == (result.data.fingerprint, result.protocol)
    again = ModelCard(str(card))
    assert again.data.eval_results == card.data.eval_results and again.data.to_dict() == card.data.to_dict()
    assert (
        "| linear/sweep@1 | photos, train -> val | top1 | 0.333 [0.123, 0.500] share | 36 | 0, 3 | chance 0.083 |" in card.text
    )
    assert "| unknown, 3 |" in card.text
    assert card.text.count("\n- linear/sweep@1: Two images could not be read: a | and 'quotes'.\n") == 1


def test_the_numbers_are_what_insloc_models_shows_and_stay_while_the_weights_do(
    hub: Registry, push: Push, tmp_path: Path, folder: Path, results: list[Result], small_run: Path
) -> None:
    push(records=tmp_path / "results")
    assert [score.protocol for score in card_scores(folder)].count("linear/sweep@1") == 2
    assert "linear/sweep@1 on photos: top1 0.333 [0.123, 0.500]" in table()
    index = ModelCard(text_of(hub)).data.eval_results
    push(licence="mit")
    assert ModelCard(text_of(hub)).data.eval_results == index and "license: mit" in text_of(hub)
    changed = Path(shutil.copytree(small_run / "model", tmp_path / "changed"))
    tensors = load_file(changed / "model.safetensors")
    tensors[min(tensors)] *= 2
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((changed / "config.json").read_text())
    config["insloc"]["sha256"] = sha256_file(changed / "model.safetensors")
    write_json(changed / "config.json", config)
    push(changed)
    assert ModelCard(text_of(hub)).data.eval_results is None and "None yet" in text_of(hub)


def test_records_of_other_weights_only_or_edited_ones_are_refused(push: Push, tmp_path: Path, results: list[Result]) -> None:
    first = tmp_path / "results" / "linear" / f"{results[0].id}.json"
    values = json.loads(first.read_text())
    first.write_text(json.dumps({**values, "eval_seed": 4}))
    with pytest.raises(BadData, match="was edited by hand"):
        push(records=tmp_path / "results", dry_run=True)
    for result in results:
        (tmp_path / "results" / result.task / f"{result.id}.json").unlink()
    with pytest.raises(BadData, match="none of its 1 records is of these weights"):
        push(records=tmp_path / "results", dry_run=True)
    with pytest.raises(BadData, match="no such folder of results"):
        push(records=tmp_path / "none", dry_run=True)
