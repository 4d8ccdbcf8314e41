"""A folder and a repository of the Hub: what differs, one commit that makes them equal, and a look at what arrived.

A commit is all or nothing at the registry; it names the commit that it was made for, so that somebody else's push in between
is refused there and never overwritten. Tokens are huggingface_hub's own business and are in no sentence of ours.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insloc_hub.models.repos import list_files
from insloc_hub.release.mirror import MOST_REASON, Promised, RegistryProblem

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
PARTS = "parts/"


class CannotPublish(RegistryProblem):
    """The registry did not take a model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """A repository as it is now."""

    commit: str
    private: bool
    files: dict[str, Promised]
    card: str | None
    """Text of its README.md."""


def look(api: "HfApi", repo: str, scratch: Path) -> Remote | None:
    """What is at ORG/NAME; None: nothing, as far as this machine's token can see. CannotPublish: not to be known."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.model_info(repo)
        entries = list(api.list_repo_tree(repo, revision=info.sha, recursive=True))
        files = {e.path: _promised(e) for e in entries if hasattr(e, "blob_id")}
        card = None
        if CARD in files:
            path = api.hf_hub_download(repo, CARD, revision=info.sha, local_dir=scratch, force_download=True)
            card = Path(path).read_bytes().decode("utf-8")
    except GatedRepoError as error:
        raise CannotPublish(repo, said(error)) from None
    except RepositoryNotFoundError:
        return None
    except UnicodeDecodeError:
        raise CannotPublish(repo, f"its {CARD} is not UTF-8; mend it there") from None
    # Wide on purpose: connection errors are different classes in the two huggingface_hub lines (compat.md 2).
    except Exception as error:
        raise CannotPublish(repo, said(error)) from None
    return Remote(commit=str(info.sha), private=bool(info.private), files=files, card=card)


def changes(folder: Path, remote: Remote | None) -> dict[str, str]:
    """What a push would do, by file: new, changed, same, removed (a part that the model has no more)."""
    known = remote.files if remote else {}
    local = dict(list_files(folder))
    found = {}
    for name, path in sorted(local.items()):
        found[name] = "new" if name not in known else "same" if known[name].holds(path) else "changed"
    return found | {name: "removed" for name in sorted(known) if name.startswith(PARTS) and name not in local}


def push(api: "HfApi", folder: Path, repo: str, remote: Remote | None, private: bool, what: dict[str, str]) -> str:
    """Make the repository if there is none, and bring it to what the folder is; the commit. CannotPublish."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    adds = [CommitOperationAdd(name, folder / name) for name, change in what.items() if change in ("new", "changed")]
    removals = [CommitOperationDelete(name) for name, change in what.items() if change == "removed"]
    if remote is None:
        _try(repo, lambda: api.create_repo(repo, private=private))
        if private and not _try(repo, lambda: api.model_info(repo)).private:
            raise CannotPublish(repo, "the registry made it public, though private was asked; nothing was sent to it")
    done = _try(
        repo,
        lambda: api.create_commit(
            repo,
            [*adds, *removals],
            commit_message="insloc publish",
            parent_commit=remote.commit if remote else None,
        ),
    )
    return str(done.oid)


def check_arrived(api: "HfApi", folder: Path, repo: str, commit: str) -> None:
    """Compare what the registry says it holds now with the folder, by digest. CannotPublish: a file differs."""
    entries = _try(repo, lambda: list(api.list_repo_tree(repo, revision=commit, recursive=True)))
    there = {e.path: _promised(e) for e in entries if hasattr(e, "blob_id")}
    wrong = [name for name, path in list_files(folder) if name not in there or not there[name].holds(path)]
    if wrong:
        raise CannotPublish(repo, f"the registry took {wrong[0]} with other bytes at {commit}; publish again")


def said(error: Exception) -> str:
    """What went wrong at the registry, and the way out where it is known. No token, no signed address."""
    from huggingface_hub.errors import GatedRepoError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return "the token of this machine may not write there; take one that may (HF_TOKEN), or another ORG"
    if status == 401:
        return "the registry takes no token of this machine: set HF_TOKEN to one that may write, or: hf auth login"
    if status == 409:
        return "there is a repository of this name, which the token of this machine can't see; set HF_TOKEN to one that can"
    if status == 412:
        return "somebody pushed to it meanwhile"
    text = re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", re.sub(r"\s+", " ", str(error)).strip())
    return re.sub(r"\bhf_\w+", "hf_...", text)[:MOST_REASON] or type(error).__name__


def _try(repo: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    # Wide on purpose, as above.
    except Exception as error:
        raise CannotPublish(repo, said(error)) from None


def _promised(entry: Any) -> Promised:
    sha256 = entry.lfs.sha256 if entry.lfs else None
    return Promised(name=entry.path, size=entry.size, sha256=sha256, oid=entry.blob_id)
