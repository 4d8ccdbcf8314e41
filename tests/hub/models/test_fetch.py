"""From a Hub on loopback, through its real client: what is promised is what is loaded, once, and again without a network."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from registry import Registry

from insloc_hub.errors import BadSpec, UnknownName
from insloc_hub.files import sha256_file
from insloc_hub.models.create import create_model
from insloc_hub.models.fetch import card_folder, fetch
from insloc_hub.models.zoo import Entry, add_entry, list_models

CARD, REPO = "insloc_resnet18.mine", "lab/resnet18.insloc_mine"
GET = f"GET /{REPO}/resolve/"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def published(hub: Registry, finished_run: Path) -> str:
    """The run's folder on the Hub, a card of the zoo with its digest; the digest."""
    repo = hub.create(REPO, contents(finished_run / "model"))
    digest = sha256_file(finished_run / "model" / "model.safetensors")
    add_entry(Entry(name=CARD, origin="published", hub=REPO, revision=repo.head, sha256=digest))
    return digest


def test_a_card_comes_from_the_hub_once_and_then_from_the_cache_without_a_request(
    hub: Registry, published: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_models() == [CARD]
    model, run = create_model(CARD), create_model(str(finished_run))
    assert all(torch.equal(tensor, run.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert [line for line in hub.asked if "README" in line] == []
    before = len(hub.asked)
    create_model(CARD)
    assert len(hub.asked) == before
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert create_model(CARD, num_classes=3).fc.out_features == 3 and len(hub.asked) == before


def test_what_lies_here_is_taken_before_the_hub_is_asked(hub: Registry, published: str, finished_run: Path) -> None:
    place = Path(os.environ["INSLOC_HOME"]) / "zoo" / CARD
    shutil.copytree(finished_run / "model", place)
    assert card_folder(CARD) == place and hub.asked == []


def test_other_weights_under_the_name_of_a_card_are_refused(hub: Registry, published: str, finished_run: Path) -> None:
    place = Path(os.environ["INSLOC_HOME"]) / "zoo" / CARD
    shutil.copytree(finished_run / "model", place)
    config = json.loads((place / "config.json").read_text())
    config["insloc"]["sha256"] = "0" * 64
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadSpec, match=f"holds other weights .* than {CARD} of the zoo"):
        create_model(CARD)


def test_altered_bytes_of_the_right_size_are_refused_and_fetched_again_on_request(hub: Registry, published: str) -> None:
    weights = card_folder(CARD) / "model.safetensors"
    good = weights.read_bytes()
    weights.resolve().write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    for spec in (CARD, f"hf-hub:{REPO}"):
        with pytest.raises(BadSpec, match="its sha256 is not the one in config"):
            create_model(spec)
    with pytest.raises(BadSpec, match="its sha256"):
        fetch(CARD)
    assert f"sha256 {published} as promised" in fetch(CARD, again=True)
    create_model(CARD)


def test_a_repository_that_was_changed_since_is_not_the_card(hub: Registry, published: str, finished_run: Path) -> None:
    add_entry(Entry(name=CARD, origin="published", hub=REPO, sha256="1" * 64))
    with pytest.raises(BadSpec, match="holds other weights"):
        create_model(CARD)
    hub.repos[REPO].add({"config.json": b'{"architecture": "resnet18"}', "model.safetensors": b""})
    with pytest.raises(BadSpec, match="promises no sha256"):
        create_model(CARD)


def test_parts_come_along_and_are_checked(hub: Registry, finished_run: Path) -> None:
    files = contents(finished_run / "model")
    config = json.loads(files["config.json"])
    good = b"a part"
    for promised, right in ((good, True), (b"another", False)):
        hub.objects.clear()
        config["insloc"]["parts"] = {"fpn_head": {"file": "parts/p.bin", "sha256": hashlib.sha256(promised).hexdigest()}}
        repo = f"lab/parts-{right}"
        hub.create(repo, {**files, "config.json": json.dumps(config).encode(), "parts/p.bin": good})
        if right:
            create_model(f"hf-hub:{repo}")
            assert hub.count(f"GET /{repo}/resolve/{hub.repos[repo].head}/parts/p.bin") == 1
        else:
            with pytest.raises(BadSpec, match=r"p\.bin: its sha256 is not the one"):
                create_model(f"hf-hub:{repo}")


def test_of_several_processes_one_downloads_and_the_others_wait(hub: Registry, published: str, tmp_path: Path) -> None:
    script = f"from insloc_hub.models.fetch import fetch; import sys; sys.stdout.write(fetch({CARD!r}))"
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "shared"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    words = [sys.executable, "-c", script]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(words, env={**env, "RANK": str(rank)}, **pipes) for rank in range(3)]  # type: ignore[call-overload]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert all(f"sha256 {published} as promised" in out for out, _ in said), said
    assert sum(line.startswith(GET) and line.endswith("model.safetensors") for line in hub.asked) == 1


def test_a_name_that_is_known_and_not_to_be_had_is_refused_with_the_exact_command(hub: Registry) -> None:
    with pytest.raises(BadSpec, match=r"are not here.*never seen by us.*insloc fetch \S+c4_200ep_in1k --official FILE"):
        create_model("insloc_resnet50.c4_200ep_in1k")
    add_entry(Entry(name="insloc_resnet18.planned", origin="published"))
    with pytest.raises(BadSpec, match=r"its weights are not here\. They are not published"):
        create_model("insloc_resnet18.planned")
    assert hub.asked == []


def test_an_unknown_card_is_refused_with_the_nearest_and_where_to_put_one(hub: Registry, published: str) -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'insloc_resnet18\.mine'") as refusal:
        create_model("insloc_resnet18.mime")
    assert str(Path(os.environ["INSLOC_HOME"]) / "zoo") in str(refusal.value)


def test_a_missing_repository_and_no_network_are_sentences_with_the_way_out(
    hub: Registry, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSpec, match=r"'hf-hub:nobody/nothing'.*can't be had.*HF_HOME"):
        create_model("hf-hub:nobody/nothing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadSpec, match=r"can't be had.*HF_HOME"):
        create_model(CARD)


def test_a_strangers_repository_is_checked_by_the_hubs_own_digest(hub: Registry) -> None:
    hub.create("timm/some", {"config.json": b'{"architecture": "resnet18"}', "model.safetensors": b"weights"})
    said = fetch("hf-hub:timm/some")
    assert said.endswith("as the Hub gave it")
    blob = (Path(said.split(": ")[1].split(",")[0]) / "model.safetensors").resolve()
    blob.write_bytes(b"wEights")
    with pytest.raises(BadSpec, match=r"not the one that the Hub gave.*--again"):
        fetch("hf-hub:timm/some")
    assert fetch("hf-hub:timm/some", again=True) == said


@pytest.mark.parametrize("text", ["resnet18", "random:resnet18"])
def test_what_nobody_could_fetch_is_refused(text: str) -> None:
    with pytest.raises(BadSpec, match="nothing to fetch"):
        fetch(text)
