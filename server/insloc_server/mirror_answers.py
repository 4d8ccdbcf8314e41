"""What the mirror says of repositories, in the Hub's JSON (compat.md 3.1), from files on disk alone."""

import hashlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load

from insloc_hub.models.repos import RepoFile, Revision

log = logging.getLogger(__name__)

MOST_CARD_BYTES = 1024 * 1024  # of a README, and of its front matter as JSON: YAML can say a gigabyte in ten lines


def model_facts(revision: Revision, *, blobs: bool = False) -> dict[str, Any]:
    """One model, as model_info and snapshot_download read it; with `blobs`, the digests of its files."""
    card = read_card(revision.files.get("README.md"))
    changed = datetime.fromtimestamp(max((f.stat.st_mtime for f in revision.files.values()), default=0), UTC)
    moment = changed.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    facts = {
        "_id": hashlib.sha256(revision.repo.encode()).hexdigest()[:24],
        "id": revision.repo,
        "modelId": revision.repo,
        "author": revision.repo.split("/")[0],
        "sha": revision.commit,
        "lastModified": moment,
        "createdAt": moment,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": card_tags(card),
        "siblings": [sibling(file, blobs) for file in revision.files.values()],
        "cardData": card,
    }
    for key in ("library_name", "pipeline_tag"):
        if isinstance(card.get(key), str):
            facts[key] = card[key]
    return facts | ({"model-index": card["model-index"]} if "model-index" in card else {})


def sibling(file: RepoFile, blobs: bool) -> dict[str, Any]:
    """A file in a model's facts."""
    if not blobs:
        return {"rfilename": file.name}
    lfs = {"lfs": {"sha256": file.digests.sha256, "size": file.stat.st_size, "pointerSize": file.digests.pointer_size}}
    facts = {"rfilename": file.name, "size": file.stat.st_size, "blobId": file.digests.oid}
    return facts | (lfs if file.digests.sha256 else {})


def tree_entries(revision: Revision, below: str = "", *, recursive: bool = False) -> list[dict[str, Any]] | None:
    """Files and folders below a folder of the repository ("": all of it), by path; None: there is no such folder."""
    start = f"{below}/" if below else ""
    inside = {name: file for name, file in revision.files.items() if name.startswith(start)}
    if below and not inside:
        return None
    folders = sorted({parent for name in inside for parent in parents(name) if parent.startswith(start)})
    found = [folder_entry(revision, folder) for folder in folders] + [file_entry(file) for file in inside.values()]
    return sorted(
        (entry for entry in found if recursive or "/" not in entry["path"].removeprefix(start)), key=lambda entry: entry["path"]
    )


def path_entries(revision: Revision, paths: list[str]) -> list[dict[str, Any]]:
    """The entries of these paths; those that are not there are left out, as the Hub does."""
    folders = {parent for name in revision.files for parent in parents(name)}
    files = [file_entry(revision.files[path]) for path in paths if path in revision.files]
    return files + [folder_entry(revision, path) for path in paths if path in folders]


def file_entry(file: RepoFile) -> dict[str, Any]:
    """A file in a tree."""
    size, digests = file.stat.st_size, file.digests
    lfs = {"lfs": {"oid": digests.sha256, "size": size, "pointerSize": digests.pointer_size}} if digests.sha256 else {}
    return {"type": "file", "oid": digests.oid, "size": size, "path": file.name, **lfs}


def folder_entry(revision: Revision, folder: str) -> dict[str, Any]:
    """A folder in a tree; its id is a hash of what is below."""
    state = hashlib.sha1(usedforsecurity=False)
    for name, file in revision.files.items():
        if name.startswith(f"{folder}/"):
            state.update(f"{name}\0{file.digests.oid}\n".encode())
    return {"type": "directory", "oid": state.hexdigest(), "size": 0, "path": folder}


def parents(name: str) -> Iterator[str]:
    """The folders above a file: a/b/c -> a/b, a."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def listed(facts: dict[str, Any], query: dict[str, list[str]]) -> bool:
    """Whether list_models' filters (author, search, filter, pipeline_tag, gated) let a model through."""
    return all(
        (
            all(author == facts["author"] for author in query.get("author", [])),
            all(text.lower() in facts["id"].lower() for text in query.get("search", [])),
            all(tag in facts["tags"] for tag in query.get("filter", [])),
            all(tag == facts.get("pipeline_tag") for tag in query.get("pipeline_tag", [])),
            "true" not in query.get("gated", []),
        )
    )


def card_tags(card: dict[str, Any]) -> list[str]:
    """The tags that the Hub would show and filter by: the card's own, and what its other fields mean."""
    tags = [*texts(card, "tags"), *texts(card, "library_name"), *texts(card, "pipeline_tag")]
    tags += [f"dataset:{name}" for name in texts(card, "datasets")] + [f"license:{name}" for name in texts(card, "license")]
    return list(dict.fromkeys(tags))


def texts(card: dict[str, Any], key: str) -> list[str]:
    """A field that is one text or a list of them."""
    value = card.get(key)
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def read_card(readme: RepoFile | None) -> dict[str, Any]:
    """The front matter of a README as JSON can say it; {} where there is none, or none that is fit to be sent on."""
    if readme is None or readme.stat.st_size > MOST_CARD_BYTES:
        return {}
    try:
        return dict(json.loads(bounded_json(_front_matter(readme.path))))
    # Wide on purpose: a card is somebody's text, and YAML's errors are of many classes.
    except Exception as error:
        log.warning("%s: its front matter is left out: %s", readme.path, " ".join(str(error).split())[:200])
        return {}


def bounded_json(value: Any) -> str:
    """JSON of what YAML gave (a date is its text). ValueError: a NaN, a loop, or too much."""
    parts: list[str] = []
    size = 0
    for part in json.JSONEncoder(default=str, allow_nan=False).iterencode(value):
        parts.append(part)
        size += len(part)
        if size > MOST_CARD_BYTES:
            raise ValueError(f"more than {MOST_CARD_BYTES} bytes when written out")
    return "".join(parts)


def _front_matter(path: Path) -> dict[str, Any]:
    found: dict[str, Any] | None = metadata_load(path)
    return found or {}
