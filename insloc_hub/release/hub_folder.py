"""A run, an exported folder or anybody's weights -> OUT/ORG/NAME: config.json, weights, parts and card, as the Hub has them.

It is also the form that `insloc mirror OUT` serves. It is read back through plain timm, tensors and features, before it takes
its place. What a person has put beside our files stays, and what is hidden is never uploaded.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import EvalResult
from torch import nn

from insloc_hub.checkpoints.convert import convert
from insloc_hub.errors import BadRun, BadSpec, CannotWrite
from insloc_hub.files import sha256_file, write_json, write_text
from insloc_hub.models.create import create_model, weights_digest
from insloc_hub.models.repos import list_files
from insloc_hub.models.spec import parse_spec
from insloc_hub.models.zoo import read_config
from insloc_hub.pretrain.run import RUN_FILE, read_run
from insloc_hub.release.card import block, front_matter, without_paths
from insloc_hub.release.edits import Page, read_page, settle, write_page
from insloc_hub.release.evidence import read_records, table, to_index
from insloc_hub.release.export import check_export, replace_folder
from insloc_hub.release.upload import CARD, Remote

Say = Callable[[str], None]
WEIGHTS = "model.safetensors"
# The card as the Hub's alone would make it, by which the next push tells whose edit is new. Hidden: never uploaded.
LAST_SEEN = ".card-of-the-hub.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What to publish, and as what."""

    source: Path
    """A run, an exported or converted folder, or a weights file."""
    repo: str
    """ORG/NAME."""
    out: Path
    """Where ORG/NAME/ is written."""
    records: Path | None = None
    """Folder of records for the card."""
    licence: str | None = None
    """The Hub's identifier; None: as the card says, at first "unknown"."""
    datasets: tuple[str, ...] = ()
    """The Hub's names; none: as the card says, at first the name of the training images' folder."""
    private: bool = False
    dry_run: bool = False


def make_folder(wish: Wish, source: Path, remote: Remote | None, scratch: Path, say: Say) -> Path:
    """Write OUT/ORG/NAME whole from the exported folder `source` and return it. InslocError: it is as it was before."""
    config = read_config(source)
    check_kind(source, config, wish.repo)
    model = create_model(f"local-dir:{source}")
    target, part = wish.out / wish.repo, scratch / "model"
    name = wish.repo.partition("/")[2]
    started_from = config["insloc"].get("recipe", {}).get("init", "")
    if "/" in started_from and not started_from.startswith("hf-hub:"):
        say(f"config.json says that the run started from {started_from}, a path of this machine")
    page, theirs = pages(wish, target, remote, config)
    index = numbers(wish, theirs, remote, weights_digest(model), config["insloc"]["sha256"], say)
    settle_config(config, wish, str(page.front["license"]))
    text = block(config, wish.repo, str(page.front["license"]), table(index))
    try:
        part.mkdir()
        _copy_extras(target, part)
        _copy_tensors(source, part, config)
        write_json(part / "config.json", config)
        write_text(part / CARD, write_page(page, text, name, index))
        if theirs is not None:
            write_text(part / LAST_SEEN, write_page(theirs, text, name, index))
        say(f"read back through plain timm: {check_export(part)} tensors equal, {check_features(part, model)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(part, target)
    except OSError as error:
        raise CannotWrite(target, error.strerror or str(error)) from None
    return target


def find_folder(source: Path, scratch: Path, say: Say) -> Path:
    """The exported folder meant by a run, a folder or a weights file; anybody's weights are converted, proved. InslocError."""
    spec = parse_spec(f"local-dir:{source}" if source.is_dir() else str(source))
    if spec.kind == "folder":
        return Path(spec.name)
    if spec.kind != "checkpoint":
        raise BadSpec(f"{source}: no such folder or file")
    done = convert(source, "timm", scratch / "converted")
    for line in done.sentences()[:-1]:
        say(line)
    return scratch / "converted"


def check_kind(folder: Path, config: dict[str, Any], repo: str) -> None:
    """BadSpec: a folder that too little is known of for a card, or a name of another architecture's."""
    ours, arch = config.get("insloc", {}), config["architecture"].split(".")[0]
    if not ours.get("sha256") or not {"recipe", "converted_from"} & ours.keys():
        raise BadSpec(
            f"{folder}: its config.json says nothing of where it comes from, so there is no card to write. "
            "Publish a run, what insloc export or convert wrote, or a weights file"
        )
    says = repo.partition("/")[2].partition(".")[0]
    if says != arch and timm.is_model(says):
        raise BadSpec(f"{repo} would be a {says}, and {folder} holds a {arch}; call it {arch}.insloc_TAG")


def pages(wish: Wish, target: Path, remote: Remote | None, config: dict[str, Any]) -> tuple[Page, Page | None]:
    """The card to go on from, and the Hub's. BadData: edited here and there, or broken."""
    defaults = front_matter(config)
    given: dict[str, Any] = {"license": wish.licence} if wish.licence else {}
    given |= {"datasets": list(wish.datasets)} if wish.datasets else {}

    def local(name: str) -> Page | None:
        path = target / name
        return read_page(path.read_bytes().decode(), str(path), defaults, given) if path.is_file() else None

    there = read_page(remote.card, f"{CARD} of the Hub", defaults, given) if remote and remote.card is not None else None
    page = settle(local(CARD), there, local(LAST_SEEN), str(target / CARD))
    return page or Page(front=defaults | given), there


def numbers(wish: Wish, theirs: Page | None, remote: Remote | None, digest: str, sha256: str, say: Say) -> list[EvalResult]:
    """The card's numbers: of the records or, without any, those that the Hub's card has already of the same weights."""
    if wish.records is not None:
        results, others = read_records(wish.records, digest)
        say(
            f"{wish.records}: {len(results)} records of these weights"
            + (f", {others} of others or without numbers" if others else "")
        )
        return to_index(results)
    known = remote.files.get(WEIGHTS) if remote else None
    return list(theirs.results) if theirs and known and known.sha256 == sha256 else []


def settle_config(config: dict[str, Any], wish: Wish, licence: str) -> None:
    """What publishing adds to config.json: licence, timm's tag after the repository's name, and who made the weights."""
    tag = wish.repo.partition("/")[2].partition(".")[2]
    config["pretrained_cfg"] |= {"tag": tag} if tag else {}
    config["pretrained_cfg"] |= {"license": licence} if licence != "unknown" else {}
    made_by = config["insloc"].get("made_by") or made_by_run(wish.source)
    config["insloc"] |= {"licence": licence, **({"made_by": made_by} if made_by else {})}


def made_by_run(source: Path) -> dict[str, str]:
    """Command and versions that a run's folder, or the run around an exported folder, says it was made by; {}: none does."""
    place = (source.parent if source.is_file() else source).resolve()
    run = next((folder for folder in (place, place.parent) if (folder / RUN_FILE).is_file()), None)
    if run is None:
        return {}
    facts = read_run(run)
    versions = {name: facts["env"][name] for name in ("torch", "timm", "git") if name in facts.get("env", {})}
    return {"command": without_paths(facts["command"]), "insloc_hub": facts["insloc_hub"], **versions}


def check_features(folder: Path, model: nn.Module) -> str:
    """Features of what was written, through plain timm, against those of the source through our own reader, bit for bit.

    On two noise images of the input's size. BadRun: they differ, or are no finite numbers.
    """
    copy: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    original: Any = model
    size = read_config(folder)["pretrained_cfg"]["input_size"]
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        there, here = copy.forward_features(images), original.forward_features(images)
        same = torch.equal(there, here) and torch.equal(copy(images), original(images))
    if not torch.isfinite(here).all():
        raise BadRun("these weights give features that are no finite numbers; nothing was published. Was the run healthy?")
    if not same:
        raise BadRun("plain timm computes other features of the folder than of its source; nothing was published")
    return f"features {list(here.shape)} equal bit for bit"


def _copy_tensors(source: Path, part: Path, config: dict[str, Any]) -> None:
    """The weights, and parts whose digest is the stated one. BadSpec."""
    shutil.copyfile(source / WEIGHTS, part / WEIGHTS)
    for stated in config["insloc"]["parts"].values():
        path = source / stated["file"]
        if not path.is_file() or sha256_file(path) != stated["sha256"]:
            raise BadSpec(f"{path}: missing, or not the bytes whose sha256 config.json holds; export or convert again")
        (part / stated["file"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, part / stated["file"])


def _copy_extras(target: Path, part: Path) -> None:
    """What lies in the folder beside our files: a licence, figures of the card, and what the last push has noted."""
    found = dict(list_files(target)) if target.is_dir() else {}
    found |= {LAST_SEEN: target / LAST_SEEN} if (target / LAST_SEEN).is_file() else {}
    for name, path in found.items():
        if name not in (WEIGHTS, CARD, "config.json") and not name.startswith("parts/"):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
