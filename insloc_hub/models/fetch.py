"""A card or a Hub repository -> a folder on this machine whose bytes are those that were promised.

The Hub's client checks sizes only (compat.md 3.2), so the sha256 in our config.json, and the one in the zoo, are compared
before anything is loaded. Looked for in: the clone's zoo/, $INSLOC_HOME/zoo, the Hub's cache, the Hub. What lies in the
cache is used without a network; of several processes one downloads a file, and the others wait at the client's lock.
"""

from pathlib import Path

from insloc_hub.errors import BadSpec, InslocError, UnknownName
from insloc_hub.files import home, sha256_file
from insloc_hub.models.spec import parse_spec
from insloc_hub.models.zoo import Entry, entries, how_to_get, list_models, local_folder, read_config

WEIGHTS = "model.safetensors"
SHA256_DIGITS = 64
MOST_REASON = 300  # characters of another library's message that are passed on


def fetch(text: str, again: bool = False) -> str:
    """Bring a card or hf-hub:ORG/NAME[@REVISION] to this machine; a sentence that says where it is and what was checked.

    BadSpec: it can't be had, its bytes are not the promised ones, or `text` names nothing that could be fetched.
    """
    spec = parse_spec(text)
    if spec.kind == "card":
        folder = card_folder(spec.name, again)
    elif spec.kind == "hf-hub":
        repo, _, revision = spec.name.partition("@")
        found = hub_folder(repo, revision or None, again)
        if found is None:
            return _strangers(repo, revision or None, again)
        folder = found
    else:
        raise BadSpec(f"{text!r} is nothing to fetch: give a name of `insloc models`, or hf-hub:ORG/NAME")
    check_bytes(folder)
    promised = read_config(folder).get("insloc", {}).get("sha256")
    return f"{text}: {folder}, sha256 {promised} as promised" if promised else f"{text}: {folder}; it promises no sha256"


def check_bytes(folder: Path) -> None:
    """BadSpec: the weights are not the bytes whose sha256 config.json holds. One without a digest of ours is let through."""
    promised = read_config(folder).get("insloc", {}).get("sha256")
    weights = folder / "model.safetensors"
    if promised and not weights.is_file():
        raise BadSpec(f"{folder}: model.safetensors is missing, which config.json has a digest of; fetch it again")
    if promised and sha256_file(weights) != promised:
        raise BadSpec(f"{weights}: its sha256 is not the one in config.json: cut short, altered or swapped; fetch it again")


def card_folder(name: str, again: bool = False) -> Path:
    """The folder of a card, downloaded if need be; `again`: even if it is in the cache.

    UnknownName: no such card, with the nearest. BadSpec: known, but its weights are not to be had here.
    """
    entry = entries().get(name)
    folder = local_folder(name)
    if folder is not None:
        _keep_promise(folder, entry)
        return folder
    if entry is None:
        see = f"insloc models; a folder becomes a card when it is copied to {home() / 'zoo' / 'insloc_ARCH.TAG'}"
        raise UnknownName("card", name, [*list_models(), *entries()], see)
    if entry.hub is None:
        raise BadSpec(f"{name}: its weights are not here. They are {how_to_get(entry)}")
    folder = hub_folder(entry.hub, entry.revision, again)
    if folder is None:
        raise BadSpec(f"hf-hub:{entry.hub}: its config.json promises no sha256, so it is not {name} of the zoo")
    _keep_promise(folder, entry)
    return folder


def hub_folder(repo: str, revision: str | None = None, again: bool = False) -> Path | None:
    """The snapshot of ORG/NAME in the Hub's cache, every file of one commit; None: a stranger's, without a promise of ours.

    Bytes of the trunk are compared by whoever loads them (check_folder), parts here. BadSpec: can't be had.
    """
    folder = hub_config_folder(repo, revision, again)
    ours = read_config(folder).get("insloc")
    if ours is None:
        return None
    # By the commit of the config: somebody may push while this goes on.
    _download(repo, WEIGHTS, folder.name, again)
    for part in ours.get("parts", {}).values():
        path = _download(repo, part["file"], folder.name, again)
        if sha256_file(path) != part["sha256"]:
            raise BadSpec(f"{path}: its sha256 is not the one in config.json. Get it again: insloc fetch hf-hub:{repo} --again")
    return folder


def hub_config_folder(repo: str, revision: str | None = None, again: bool = False) -> Path:
    """The snapshot of ORG/NAME with its config.json, from the cache or the Hub. BadSpec."""
    return _download(repo, "config.json", revision, again).parent


def cant_be_had(text: str, error: Exception) -> BadSpec:
    """Another library's failure to get weights, as one sentence with the way out."""
    first = " ".join(str(error).split())[:MOST_REASON] or type(error).__name__
    return BadSpec(
        f"model {text!r}: its weights can't be had ({first}). Check the name and the network, "
        "set HF_HOME to a cache that holds them, or give a local folder"
    )


def _strangers(repo: str, revision: str | None, again: bool) -> str:
    """Get the weights of a repository that is none of ours, checked against the Hub's own digest of a large file."""
    weights = _download(repo, WEIGHTS, revision, again)
    stated = weights.resolve().name  # the cache calls a large file by the sha256 that the Hub gave for it (compat.md 6.3)
    if len(stated) != SHA256_DIGITS:
        return f"hf-hub:{repo}: {weights.parent}; it promises no sha256"
    if sha256_file(weights) != stated:
        raise BadSpec(
            f"{weights}: its sha256 is not the one that the Hub gave. Get it again: insloc fetch hf-hub:{repo} --again"
        )
    return f"hf-hub:{repo}: {weights.parent}, sha256 {stated} as the Hub gave it"


def _download(repo: str, file: str, revision: str | None, again: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, revision=revision, force_download=again))
    except InslocError:
        raise
    # Wide on purpose: connection errors are different classes in the two huggingface_hub lines (compat.md 2).
    except Exception as error:
        raise cant_be_had(f"hf-hub:{repo}" + (f"@{revision}" if revision else ""), error) from None


def _keep_promise(folder: Path, entry: Entry | None) -> None:
    """BadSpec: the folder states other weights than the zoo does. That the bytes are the stated ones is checked on loading."""
    if entry is None or entry.sha256 is None:
        return
    stated = read_config(folder).get("insloc", {}).get("sha256")
    if stated != entry.sha256:
        raise BadSpec(
            f"{folder}: holds other weights (sha256 {str(stated)[:16]}) than {entry.name} of the zoo ({entry.sha256[:16]}). "
            f"Move it away, then: insloc fetch {entry.name}"
        )
