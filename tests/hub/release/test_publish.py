"""`insloc publish` with the real huggingface_hub client against a registry on loopback that takes uploads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from registry import Registry
from safetensors.torch import load_file, save_file

from insloc_hub.errors import BadData, BadRun, BadSpec, InslocError
from insloc_hub.files import sha256_file, write_json
from insloc_hub.models.create import create_model
from insloc_hub.models.listing import table
from insloc_hub.release.edits import BEGIN, END
from insloc_hub.release.hub_folder import check_features
from insloc_hub.release.upload import CannotPublish

REPO = "lab/test_resnet.insloc_c4_photos"
COMMIT = f"POST /api/models/{REPO}/commit"
FILES = {"config.json", "model.safetensors", "README.md"}
COMMAND = "insloc publish runs/first --repo lab/test_resnet.insloc_c4_photos"  # as conftest.py says it was

Push = Callable[..., list[str]]


def text_of(hub: Registry, name: str = "README.md") -> str:
    return hub.repos[REPO].files[name].decode()


def edit(hub: Registry, old: str, new: str) -> None:
    """A person changes the card on the Hub."""
    files = hub.repos[REPO].files
    assert old in files["README.md"].decode()
    hub.repos[REPO].add({**files, "README.md": files["README.md"].decode().replace(old, new).encode()})


def test_a_new_repository_holds_the_runs_export_bit_for_bit(hub: Registry, push: Push, folder: Path, small_run: Path) -> None:
    said = push()
    repo = hub.repos[REPO]
    assert not repo.private and len(repo.commits) == 2  # the registry's own first one, and ours
    assert set(repo.files) == {*FILES, ".gitattributes"}
    assert repo.files["model.safetensors"] == (small_run / "model" / "model.safetensors").read_bytes()
    assert all((folder / name).read_bytes() == repo.files[name] for name in FILES)
    assert f"published: {REPO} at {repo.head}" in said
    assert any(line.startswith("read back through plain timm: ") for line in said)
    assert hub.leaked == [] and hub.token not in "\n".join(said)


def test_a_dry_run_writes_the_folder_and_sends_nothing(hub: Registry, push: Push, folder: Path) -> None:
    said = push(dry_run=True)
    assert {path.name for path in folder.iterdir()} == FILES
    assert hub.repos == {} and not [line for line in hub.asked if not line.startswith(("GET", "HEAD"))]
    assert "nothing was sent" in said[-1] and f"{REPO} at {hub.url}, public, to be made:" in said
    assert not list(folder.parents[1].glob(".*"))


def test_a_dry_run_needs_no_registry(push: Push, folder: Path) -> None:
    assert any(
        "what is there is not known, as if there were nothing" in line for line in push(dry_run=True)
    )  # the tests are offline
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 0


def test_private_is_private_and_is_never_made_public_nor_the_other_way(hub: Registry, push: Push) -> None:
    push(private=True)
    assert hub.repos[REPO].private
    assert f"{REPO} at {hub.url}, private, now {hub.repos[REPO].head[:12]}:" in push(licence="mit")
    assert hub.repos[REPO].private and len(hub.repos[REPO].commits) == 3
    hub.repos[REPO].private = False
    with pytest.raises(InslocError, match="is public already; make it private in its settings first"):
        push(private=True)


def test_a_registry_that_does_not_heed_private_gets_nothing(hub: Registry, push: Push) -> None:
    hub.deaf = True
    with pytest.raises(CannotPublish, match="made it public, though private was asked; nothing was sent"):
        push(private=True)
    assert set(hub.repos[REPO].files) == {".gitattributes"} and hub.objects == {}


def test_the_same_again_sends_nothing(hub: Registry, push: Push) -> None:
    push()
    said = push()
    assert len(hub.repos[REPO].commits) == 2 and "nothing to send: the repository is as this folder" in said
    assert hub.count("PUT") == 1


def test_a_second_push_keeps_what_a_person_wrote_on_the_hub_and_remakes_the_block(hub: Registry, push: Push) -> None:
    push()
    edit(hub, BEGIN, f"# My words above\n\n{BEGIN}")
    edit(hub, END, f"{END}\n\nMy words below.\n")
    edit(hub, "library_name: timm", "library_name: timm\nlanguage: en\nextra: [a, b]")
    edit(hub, "- insloc\n", "- insloc\n- mine\n")
    edit(hub, "## Results", "## Spoilt results")
    push(licence="apache-2.0")
    card = ModelCard(text_of(hub))
    assert card.text.startswith("# My words above\n\n" + BEGIN) and card.text.endswith(END + "\n\nMy words below.\n")
    assert "Spoilt" not in card.text and "## Results" in card.text
    found = card.data.to_dict()
    assert (found["language"], found["extra"], found["license"]) == ("en", ["a", "b"], "apache-2.0")
    assert {"mine", "insloc", "timm"} <= set(found["tags"])
    head = hub.repos[REPO].head
    push()
    assert hub.repos[REPO].head == head  # the licence stays without being said again


def test_what_was_edited_here_after_a_dry_run_is_sent_even_after_a_cut(
    hub: Registry, push: Push, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    push()
    push(dry_run=True, licence="mit")
    page = folder / "README.md"
    page.write_text(page.read_text().replace(BEGIN, f"Mine.\n\n{BEGIN}"))
    (folder / "LICENSE").write_text("mine too")
    hub.cut = "POST /api/models"
    with pytest.raises(CannotPublish):
        push(licence="mit")
    hub.cut = ""
    push(licence="mit")
    assert "Mine.\n\n" + BEGIN in text_of(hub) and text_of(hub, "LICENSE") == "mine too"


def test_edits_here_and_there_are_not_mixed_but_said(hub: Registry, push: Push, folder: Path) -> None:
    push()
    edit(hub, BEGIN, f"There.\n\n{BEGIN}")
    page = folder / "README.md"
    page.write_text(page.read_text().replace(BEGIN, f"Here.\n\n{BEGIN}"))
    with pytest.raises(BadData, match=r"README.md: this card and the one on the Hub were both edited, differently"):
        push()
    page.unlink()
    push()
    assert "There." in text_of(hub) and "Here." not in text_of(hub)


def test_a_card_that_somebody_wrote_before_us_is_kept_whole(hub: Registry, push: Push) -> None:
    hub.create(REPO, {"README.md": b"# Theirs\n\nText.\n", ".gitattributes": b""})
    push()
    assert ModelCard(text_of(hub)).text.endswith(f"{END}\n\n# Theirs\n\nText.\n")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [(END, "", "one of the two marks is lost"), ("library_name: timm", "library_name: [", "its front matter can't be read")],
)
def test_a_broken_card_on_the_hub_is_said_and_left(hub: Registry, push: Push, old: str, new: str, says: str) -> None:
    push()
    edit(hub, old, new)
    before = hub.repos[REPO].head
    with pytest.raises(BadData, match=says):
        push(licence="mit")
    assert hub.repos[REPO].head == before


@pytest.mark.parametrize("place", ["POST /api/repos", "POST /api/models", "POST /lab", COMMIT])
def test_a_cut_connection_publishes_nothing_leaves_a_whole_folder_and_says_how_to_go_on(
    hub: Registry, push: Push, folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own five tries
    hub.cut = place
    with pytest.raises(CannotPublish, match="takes all files of a push or none of them") as caught:
        push()
    assert str(caught.value).endswith(f"{folder} is whole. Go on: {COMMAND}")
    assert hub.token not in str(caught.value)
    assert REPO not in hub.repos or set(hub.repos[REPO].files) == {".gitattributes"}
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 0
    assert {path.name for path in folder.iterdir()} == FILES and not list(folder.parents[1].glob(".*"))
    hub.cut = ""
    push()
    assert set(hub.repos[REPO].files) == {*FILES, ".gitattributes"}
    assert hub.count("PUT") == 1  # weights that had arrived are not sent twice


def test_weights_cut_in_the_middle_are_sent_again_from_the_start(
    hub: Registry, push: Push, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cut = "PUT /storage"
    with pytest.raises(CannotPublish, match="Go on: insloc publish"):
        push()
    assert hub.objects == {} and "model.safetensors" not in hub.repos[REPO].files
    hub.cut = ""
    push()
    assert hub.repos[REPO].files["model.safetensors"] == (small_run / "model" / "model.safetensors").read_bytes()


def test_somebody_elses_push_in_between_is_never_overwritten(hub: Registry, push: Push) -> None:
    push()

    def quicker() -> None:
        edit(hub, BEGIN, f"In between.\n\n{BEGIN}")

    hub.change = quicker
    with pytest.raises(CannotPublish, match="somebody pushed to it meanwhile"):
        push(licence="mit")
    push(licence="mit")
    assert "In between." in text_of(hub) and "license: mit" in text_of(hub)


@pytest.mark.parametrize(
    ("token", "repo", "says"),
    [
        ("hf_wrong", REPO, "takes no token of this machine: set HF_TOKEN"),
        ("hf_secret", "others/test_resnet.x", "may not write there"),
    ],
)
def test_without_the_right_to_write_the_way_out_is_said_and_no_token(
    hub: Registry, push: Push, monkeypatch: pytest.MonkeyPatch, token: str, repo: str, says: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CannotPublish, match=says) as caught:
        push(repo=repo)
    assert token not in str(caught.value) and hub.repos == {}


def test_a_registry_that_keeps_other_bytes_than_were_sent_is_found_out(hub: Registry, push: Push) -> None:
    def spoil() -> None:
        hub.objects = {name: data[:-1] + b"!" for name, data in hub.objects.items()}

    hub.create(REPO)
    hub.change = spoil
    with pytest.raises(CannotPublish, match=r"took model.safetensors with other bytes"):
        push()


@pytest.mark.parametrize("repo", ["resnet18", "lab/a--b", "lab/x/y", "lab/", "../x", "lab/name.git"])
def test_a_repository_that_can_not_be_is_refused_before_any_work(push: Push, tmp_path: Path, repo: str) -> None:
    with pytest.raises(InslocError, match="say ORG/NAME"):
        push(repo=repo)
    assert not (tmp_path / "published").exists()


def test_a_name_of_another_architecture_is_refused(push: Push, tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match=r"would be a resnet50, and .* holds a test_resnet"):
        push(repo="lab/resnet50.insloc_c4", dry_run=True)
    assert not list((tmp_path / "published").iterdir())


def test_a_folder_that_says_nothing_of_its_origin_is_refused(push: Push, tmp_path: Path, small_run: Path) -> None:
    bare = Path(shutil.copytree(small_run / "model", tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    write_json(bare / "config.json", {key: value for key, value in config.items() if key != "insloc"})
    with pytest.raises(BadSpec, match="says nothing of where it comes from"):
        push(bare, dry_run=True)


def test_altered_weights_are_refused(push: Push, tmp_path: Path, small_run: Path) -> None:
    altered = Path(shutil.copytree(small_run / "model", tmp_path / "altered"))
    tensors = load_file(altered / "model.safetensors")
    tensors[min(tensors)] += 1
    save_file(tensors, altered / "model.safetensors")
    with pytest.raises(BadSpec, match=r"sha256 is not the one in config\.json"):
        push(altered, dry_run=True)


def test_features_of_another_network_or_of_none_are_refused(small_run: Path) -> None:
    model = create_model(str(small_run))
    assert check_features(small_run / "model", model) == "features [2, 96, 2, 2] equal bit for bit"
    with torch.no_grad():
        weight = next(iter(model.layer4.parameters()))
        weight += 0.1
        with pytest.raises(BadRun, match="other features"):
            check_features(small_run / "model", model)
        weight.fill_(torch.nan)
        with pytest.raises(BadRun, match="no finite numbers"):
            check_features(small_run / "model", model)


def test_a_models_own_name_is_noted_and_loads_from_the_hub(hub: Registry, push: Push, small_run: Path) -> None:
    push()
    name = "insloc_test_resnet.c4_photos"
    line = next(line for line in table().splitlines() if "c4_photos" in line)
    assert f"Hub: {REPO}" in line
    state = create_model(name).state_dict()
    file = load_file(small_run / "model" / "model.safetensors")
    assert state.keys() == file.keys() and all(torch.equal(state[key], file[key]) for key in file)


def test_config_json_holds_what_the_contract_says(push: Push, folder: Path, small_run: Path) -> None:
    push(dry_run=True, licence="apache-2.0")
    config = json.loads((folder / "config.json").read_text())
    ours, run = config["insloc"], json.loads((small_run / "run.json").read_text())
    assert ours["sha256"] == sha256_file(folder / "model.safetensors") and ours["licence"] == "apache-2.0"
    assert config["pretrained_cfg"]["tag"] == "insloc_c4_photos" and config["pretrained_cfg"]["license"] == "apache-2.0"
    assert "model_args" not in config and ours["made_by"]["torch"] == run["env"]["torch"]
    timm.models.PretrainedCfg(**config["pretrained_cfg"])  # an unknown key would be a TypeError


def test_the_card_names_command_and_digests_and_no_path_of_this_machine(push: Push, tmp_path: Path, small_run: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    facts = json.loads((run / "run.json").read_text())
    write_json(
        run / "run.json", {**facts, "command": "insloc pretrain --data /home/ann/secret/photos --out ../w/run --steps 2"}
    )
    push(run, dry_run=True)
    folder = tmp_path / "published" / REPO
    text = (folder / "README.md").read_text()
    assert "insloc pretrain --data photos --out run --steps 2\n" in text.split("## Reproduce:")[1]
    for digest in (sha256_file(folder / "model.safetensors"), facts["recipe_hash"], facts["data"]["fingerprint"]):
        assert f"`{digest}`" in text.split("## Reproduce:")[1]
    assert "/home" not in text + (folder / "config.json").read_text()
    push(folder, dry_run=True)  # what was published is published again, without the run
    assert (folder / "README.md").read_text() == text


def test_a_path_that_a_run_started_from_is_said(push: Push, tmp_path: Path, small_run: Path) -> None:
    started = Path(shutil.copytree(small_run / "model", tmp_path / "started"))
    config = json.loads((started / "config.json").read_text())
    assert not any("started from" in line for line in push(started, dry_run=True))
    config["insloc"]["recipe"]["init"] = "/home/ann/weights"
    write_json(started / "config.json", config)
    said = push(started, dry_run=True)
    assert "config.json says that the run started from /home/ann/weights, a path of this machine" in said
