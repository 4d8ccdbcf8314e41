"""A folder as the Hub wants it, shown first, and then a repository of the Hub: one commit, compared with what arrived.

Nothing leaves the machine before the folder has been read back through plain timm (hub_folder.py).
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from insloc_hub.errors import CannotWrite, InslocError
from insloc_hub.files import write_text
from insloc_hub.models.listing import card_scores, weights_size
from insloc_hub.models.repos import REPO_ID
from insloc_hub.models.zoo import SHIPPED, Entry, add_entry, hub_name, read_config, read_entries
from insloc_hub.release.hub_folder import LAST_SEEN, WEIGHTS, Say, Wish, find_folder, make_folder
from insloc_hub.release.mirror import registry
from insloc_hub.release.upload import CARD, CannotPublish, Remote, changes, check_arrived, look, push

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def publish(wish: Wish, command: str, say: Say) -> Path:
    """Write OUT/ORG/NAME and, unless it is a dry run, bring ORG/NAME of the Hub to it; the folder.

    `command` is the command line, for the sentence that says how to go on. InslocError: nothing was written. CannotPublish:
    the folder is whole.
    """
    check_repo(wish.repo)
    api = registry()
    try:
        wish.out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".publish.", dir=wish.out))
    except OSError as error:
        raise CannotWrite(wish.out, error.strerror or str(error)) from None
    try:
        source = find_folder(wish.source, scratch, say)
        remote = _look(api, wish, scratch / "hub", say)
        folder = make_folder(wish, source, remote, scratch, say)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    what = changes(folder, remote)
    say(f"{wish.repo} at {api.endpoint}, {_state(remote, wish)}:")
    for name, change in what.items():
        say(f"  {change:8} {name}")
    if wish.dry_run:
        say(f"nothing was sent. {folder} is what would be; the same command without --dry-run publishes it")
    elif remote and set(what.values()) == {"same"}:
        say("nothing to send: the repository is as this folder")
        _remember(folder, wish, remote.commit, say)
    else:
        _remember(folder, wish, _send(api, folder, wish, command, remote, what), say)
    return folder


def check_repo(repo: str) -> None:
    """InslocError: no name that the Hub takes."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
        if REPO_ID.fullmatch(repo):
            return
    except HFValidationError:
        pass
    raise InslocError(f"--repo {repo!r}: say ORG/NAME in letters, digits, '-', '_' and '.', e.g. lab/resnet18.insloc_c4_photos")


def _state(remote: Remote | None, wish: Wish) -> str:
    if remote:
        return f"{'private' if remote.private else 'public'}, now {remote.commit[:12]}"
    return f"{'private' if wish.private else 'public'}, to be made"


def _look(api: "HfApi", wish: Wish, scratch: Path, say: Say) -> Remote | None:
    """What is there. A dry run goes on without knowing. InslocError."""
    try:
        remote = look(api, wish.repo, scratch)
    except CannotPublish as error:
        if not wish.dry_run:
            raise
        say(f"what is there is not known, as if there were nothing: {error}")
        return None
    if remote and wish.private and not remote.private:
        raise InslocError(f"{wish.repo} is public already; make it private in its settings first, or leave --private out")
    return remote


def _send(api: "HfApi", folder: Path, wish: Wish, command: str, remote: Remote | None, what: dict[str, str]) -> str:
    """Push, and compare what arrived; the commit. CannotPublish: with the way to go on."""
    try:
        commit = push(api, folder, wish.repo, remote, wish.private, what)
        check_arrived(api, folder, wish.repo, commit)
    except CannotPublish as error:
        raise CannotPublish(
            wish.repo,
            f"{str(error).removeprefix(f'{wish.repo}: ')}. The registry takes all files of a push or none of them, and "
            f"{folder} is whole. Go on: {command}",
        ) from None
    return commit


def _remember(folder: Path, wish: Wish, commit: str, say: Say) -> None:
    """Note what the Hub has now, and put the model into the person's own list of names."""
    write_text(folder / LAST_SEEN, (folder / CARD).read_bytes().decode())
    say(f"published: {wish.repo} at {commit}")
    ours, arch = read_config(folder)["insloc"], read_config(folder)["architecture"].split(".")[0]
    name = f"insloc_{arch}.{wish.repo.partition('.')[2].removeprefix('insloc_')}"
    if hub_name(name) != wish.repo.partition("/")[2] or name in read_entries(SHIPPED):
        return
    params, size = weights_size(folder / WEIGHTS)
    entry = Entry(
        name=name,
        origin="published",
        recipe=ours.get("recipe", {}).get("name", ""),
        licence=ours["licence"],
        data=ours.get("data", {}).get("name", ""),
        params=params,
        bytes=size,
        sha256=ours["sha256"],
        hub=wish.repo,
        revision=commit,
        scores=card_scores(folder),
    )
    say(f"its name here is {name}, noted in {add_entry(entry)}")
