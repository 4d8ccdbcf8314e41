"""Fills a folder with models of the Hub for machines that can't reach it: `insloc mirror` serves it there.

Each file is fetched at a fixed commit, compared with the digest that the registry gave for it, and only then put in its
place; a commit is seen by a mirror when all its files are there, `main` moves last. What is there already is checked and kept.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insloc_hub.errors import BadData, CannotWrite, InslocError
from insloc_hub.files import check_writable, sha256_file, write_json
from insloc_hub.models.repos import COMMIT, MAIN, REFS, REPO_ID, git_blob, list_files, read_refs, usable
from insloc_hub.models.zoo import entries

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Say = Callable[[str], None]
SCRATCH = ".fetch"  # hidden, as all that starts with a dot: no mirror shows it
MOST_REASON = 300  # characters of another library's message that are passed on


class RegistryProblem(InslocError):
    """What stands between a registry and us; carries `repo`."""

    def __init__(self, repo: str, problem: str) -> None:
        self.repo = repo
        super().__init__(f"{repo}: {problem}")


class CannotFetch(RegistryProblem):
    """A repository, or a file of one, that the registry does not give as it promised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promised:
    """A file as the registry describes it."""

    name: str
    size: int
    sha256: str | None
    """Of a large file."""
    oid: str
    """git's blob id, what a small file is checked by."""

    def holds(self, path: Path) -> bool:
        """Whether the file at `path` has these bytes."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        return sha256_file(path) == self.sha256 if self.sha256 else git_blob(path.read_bytes()) == self.oid


def wanted(words: tuple[str, ...], everything: bool, author: str | None, search: str | None) -> tuple[Path, list[str]]:
    """The folder to fill and ORG/NAME[@REV] of what is asked for, each once. InslocError: nothing is, or no folder."""
    if not words:
        raise InslocError("say which models, and last the folder to fill: insloc pull ORG/NAME FOLDER")
    *names, folder = words
    if everything:
        names += zoo_repos()
    if author or search:
        names += find_names(author, search)
    if names:
        return Path(folder), list(dict.fromkeys(names))
    if everything:
        raise InslocError("nothing to pull: no model of the zoo is published yet (see: insloc models)")
    if author or search:
        raise InslocError("nothing to pull: the registry lists no such model")
    raise InslocError(f"{folder} would be the folder to fill, but no model is named before it: ORG/NAME, --all or --author ORG")


def zoo_repos() -> list[str]:
    """The Hub repositories of the zoo's cards, as they are now and at the commit that the zoo names."""
    published = [entry for entry in entries().values() if entry.hub]
    return [str(e.hub) for e in published] + [f"{e.hub}@{e.revision}" for e in published if e.revision]


def pull(folder: Path, names: list[str], say: Say) -> None:
    """Bring FOLDER/ORG/NAME up to date for every ORG/NAME[@REV] of `names`; `say` gets a line for each.

    One that fails does not keep the others from coming. CannotFetch: one or more failed. CannotWrite.
    """
    for name in names:
        check_name(name)
    if not folder.is_dir():
        check_writable(folder)
    failed: list[InslocError] = []
    for name in names:
        try:
            pull_one(folder, name, say)
        except CannotWrite:
            raise
        except InslocError as error:
            failed.append(error)
            say(f"{name}: failed")
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise InslocError(f"{len(failed)} of {len(names)} failed:\n" + "\n".join(f"  {error}" for error in failed))


def check_name(name: str) -> None:
    """InslocError: `name` is not of the form ORG/NAME or ORG/NAME@REVISION."""
    repo, at, revision = name.partition("@")
    if not REPO_ID.fullmatch(repo) or (at and not revision):
        raise InslocError(f"{name!r} is no model of the Hub: say ORG/NAME or ORG/NAME@REVISION, and last the folder to fill")


def find_names(author: str | None, search: str | None) -> list[str]:
    """ORG/NAME of the models of the registry that belong to `author` and have `search` in their name. CannotFetch."""
    api = registry()
    models = reach("the list of models", lambda: list(api.list_models(author=author, search=search)))
    return sorted(model.id for model in models if REPO_ID.fullmatch(model.id))


def pull_one(folder: Path, name: str, say: Say) -> None:
    """One repository at one revision. CannotFetch, CannotWrite, BadData: the place holds files that are not ours to touch."""
    repo, _, revision = name.partition("@")
    place = folder / repo
    refs = known_refs(place)
    api = registry()
    commit, files = promised_files(api, repo, revision or MAIN)
    keep = place / commit
    target = keep if keep.is_dir() else place / f".{commit}.part"
    missing = [file for file in files if not file.holds(target / file.name)]
    size = sum(file.size for file in files)
    say(f"{repo} {revision or MAIN} = {commit[:12]}: {len(files)} files, {size / 1e6:.1f} MB, {len(missing)} to fetch")
    try:
        for file in missing:
            fetch(api, repo, commit, file, target)
        if target != keep:
            target.rename(keep)
        if not COMMIT.fullmatch(revision):
            refs[revision or MAIN] = commit
        if refs != known_refs(place) or not (place / REFS).is_file():
            write_json(place / REFS, refs)
    except OSError as error:
        raise CannotWrite(place, error.strerror or str(error)) from None
    finally:
        shutil.rmtree(place / SCRATCH, ignore_errors=True)
    for old in place.glob(".*.part"):
        shutil.rmtree(old, ignore_errors=True)  # of a commit that was given up for this one


def known_refs(place: Path) -> dict[str, str]:
    """What `main` and other branches are in a folder filled before. BadData: it was not filled by this command."""
    if not (place / REFS).is_file():
        if place.is_dir() and any(not COMMIT.match(name) for name, _ in list_files(place)):
            raise BadData(place, "holds a model that was put there by hand; pull into another folder, or move it away")
        return {}
    try:
        return read_refs(place)
    except (OSError, ValueError) as error:
        raise BadData(place / REFS, f"can't be read ({error}); delete it and pull again") from None


def promised_files(api: "HfApi", repo: str, revision: str) -> tuple[str, list[Promised]]:
    """The commit behind a revision and its files, hidden ones left out. CannotFetch: there is none, or no digests."""
    info = reach(f"{repo}@{revision}", lambda: api.model_info(repo, revision=revision, files_metadata=True))
    if not COMMIT.fullmatch(info.sha or ""):
        raise CannotFetch(repo, f"{api.endpoint} names no commit for {revision}")
    files = []
    for one in info.siblings or []:
        name = one.rfilename
        if any(piece.startswith(".") and set(piece) != {"."} for piece in name.split("/")):
            continue
        if not all(usable(piece) for piece in name.split("/")):
            raise CannotFetch(repo, f"has a file called {name!r}, which would be no good name here; nothing was fetched")
        if one.size is None or not one.blob_id:
            raise CannotFetch(repo, f"{api.endpoint} gives no size and digest for {name}, so it could not be checked")
        sha256 = one.lfs.sha256 if one.lfs else None
        files.append(Promised(name=name, size=one.size, sha256=sha256, oid=one.blob_id))
    if not files:
        raise CannotFetch(repo, f"has no files at {revision}")
    return info.sha, files


def fetch(api: "HfApi", repo: str, commit: str, file: Promised, target: Path) -> None:
    """Download one file beside its place, check it, and move it there. CannotFetch: its bytes are not the promised ones."""
    scratch = target.parent / SCRATCH
    got = Path(
        reach(
            f"{repo}: {file.name}",
            lambda: api.hf_hub_download(repo, file.name, revision=commit, local_dir=scratch, force_download=True),
        )
    )
    if not file.holds(got):
        got.unlink()
        raise CannotFetch(repo, f"{file.name} came with other bytes than {api.endpoint} promises; not kept. Pull again")
    path = target / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    got.replace(path)


def registry() -> "HfApi":
    """The Hub, or what HF_ENDPOINT names. Imported here: most commands need none of it."""
    from huggingface_hub import HfApi

    return HfApi()


def reach(what: str, call: Callable[[], Any]) -> Any:
    """`call`'s result. CannotFetch: in a sentence, whatever the client's library raised."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return call()
    except GatedRepoError:
        problem = "asks for a token or for consent to its terms; set HF_TOKEN"
    except RepositoryNotFoundError:
        problem = "there is no such model, or it is private: check the name, set HF_TOKEN"
    except RevisionNotFoundError:
        problem = "there is no such branch, tag or commit"
    except InslocError:
        raise
    # Wide on purpose: connection errors are different classes in the two huggingface_hub lines (compat.md 2).
    except Exception as error:
        problem = re.sub(r"\s+", " ", str(error))[:MOST_REASON] or type(error).__name__
    raise CannotFetch(what, f"{problem} (asked {constants.ENDPOINT}; another registry: HF_ENDPOINT)") from None
