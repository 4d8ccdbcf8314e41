"""The zoo: names insloc_ARCH.TAG of weights, what is known of each, and the folders of ours that lie here (contracts.md 5).

zoo.json beside this file is the list that ships with the package; $INSLOC_HOME/zoo.json adds a person's or a group's own.
A name may be known and its weights be had by nobody: then `how_to_get` says so. Torch-free.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from insloc_hub.errors import BadData, BadSpec
from insloc_hub.files import home, write_json

SCHEMA = 1
SHIPPED = Path(__file__).with_name("zoo.json")
CLONE_ZOO = Path(__file__).resolve().parents[2] / "zoo"  # a checkout's own; absent in an installed wheel
AUTHORS_LIST = "docs/MODELZOO.md of github.com/limbo0000/InstanceLoc"  # where the authors link their four files


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number of an evaluation record, short enough for a table."""

    protocol: str
    data: str
    metric: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is known of one name. None and "": not known."""

    name: str
    """insloc_ARCH.TAG."""
    origin: Literal["official", "published"]
    """official: the authors' own files; published: by `insloc publish`."""
    recipe: str = ""
    licence: str = "unknown"
    data: str = ""
    params: int | None = None
    bytes: int | None = None
    """Of model.safetensors."""
    source: str = ""
    """Where a person downloads the original of an official one."""
    source_sha256: str | None = None
    """Of that original file; None: never seen by us."""
    sha256: str | None = None
    """Of model.safetensors."""
    hub: str | None = None
    """ORG/NAME."""
    revision: str | None = None
    """Commit of the Hub repository."""
    reported: str = ""
    """What its makers report of it; not measured by us."""
    scores: tuple[Score, ...] = ()

    @property
    def arch(self) -> str:
        """timm's name of the architecture.

        >>> Entry(name="insloc_resnet50.c4_200ep_in1k", origin="official").arch
        'resnet50'
        """
        return split_name(self.name)[0]


def split_name(name: str) -> tuple[str, str]:
    """insloc_ARCH.TAG -> ARCH, TAG.

    >>> split_name("insloc_resnet50.c4_200ep_in1k")
    ('resnet50', 'c4_200ep_in1k')
    """
    arch, _, tag = name.removeprefix("insloc_").partition(".")
    return arch, tag


def hub_name(name: str) -> str:
    """The repository's NAME of a card: stock timm's architecture, with our method in the tag.

    >>> hub_name("insloc_resnet50.c4_200ep_in1k")
    'resnet50.insloc_c4_200ep_in1k'
    """
    return "{}.insloc_{}".format(*split_name(name))


def own_list() -> Path:
    """$INSLOC_HOME/zoo.json."""
    return home() / "zoo.json"


def entries() -> dict[str, Entry]:
    """Every name that is known, shipped ones first; a person's own list can't change a shipped one. BadData."""
    own = read_entries(own_list()) if own_list().is_file() else {}
    return {**own, **read_entries(SHIPPED)}


def read_entries(path: Path) -> dict[str, Entry]:
    """A list of entries. BadData: damaged, or of a newer version."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] > SCHEMA:
            raise BadData(path, f"has schema {values['schema']}; this insloc_hub reads up to {SCHEMA}. Install a newer one")
        found = [_entry(value) for value in values["entries"]]
    except OSError as error:
        raise BadData(path, error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(path, f"is no list of models ({error}); mend it, or move it away") from None
    return {entry.name: entry for entry in found}


def add_entry(entry: Entry) -> Path:
    """Write `entry` into $INSLOC_HOME/zoo.json, in place of one of the same name. BadData, CannotWrite."""
    path = own_list()
    known = read_entries(path) if path.is_file() else {}
    known[entry.name] = entry
    rows = [dataclasses.asdict(known[name]) for name in sorted(known)]
    write_json(path, {"schema": SCHEMA, "entries": rows})
    return path


def zoo_folders() -> tuple[Path, ...]:
    """Where folders are looked for, in this order: the clone's zoo/, $INSLOC_HOME/zoo."""
    return (CLONE_ZOO, home() / "zoo")


def local_folder(name: str) -> Path | None:
    """The folder of a card that lies here; None: in none of the places."""
    return next((place / name for place in zoo_folders() if (place / name / "config.json").is_file()), None)


def list_local() -> list[str]:
    """Names of the folders that lie here."""
    found = set()
    for place in zoo_folders():
        if place.is_dir():
            found |= {p.name for p in place.iterdir() if p.name.startswith("insloc_") and (p / "config.json").is_file()}
    return sorted(found)


def list_models() -> list[str]:
    """Names whose weights lie here or can be downloaded; each is a model spec. Besides them, any timm name is one."""
    return sorted({*list_local(), *(name for name, entry in entries().items() if entry.hub)})


def how_to_get(entry: Entry) -> str:
    """Where the weights of a name are to be had, with the exact command, or that nobody has published them."""
    if entry.hub:
        return f"on the Hub as {entry.hub}: insloc fetch {entry.name}"
    if entry.origin == "official":
        seen = "never seen by us, sha256 unknown" if entry.source_sha256 is None else f"sha256 {entry.source_sha256}"
        return (
            f"the authors' file ({seen}), listed in {AUTHORS_LIST}. Download {entry.source}, "
            f"then: insloc fetch {entry.name} --official FILE"
        )
    return "not published"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an exported folder. BadSpec: not there, or not one of timm's form."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSpec(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise BadSpec(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise BadSpec(f"{path}: names no architecture, so it is no model of timm's")
    for key, kind, default in (("insloc", dict, {}), ("num_classes", int, 0)):
        if not isinstance(config.get(key, default), kind):
            raise BadSpec(f"{path}: its {key} is {config[key]!r}, which can't be; the file was edited by hand")
    return config


def _entry(value: dict[str, Any]) -> Entry:
    """BadData's causes as TypeError or ValueError, for the caller to name the file."""
    scores = tuple(Score(**score) for score in value.get("scores", ()))
    entry = Entry(**{**value, "scores": scores})
    arch, tag = split_name(entry.name)
    if not entry.name.startswith("insloc_") or not arch or not tag:
        raise ValueError(f"{entry.name!r} is no insloc_ARCH.TAG")
    return entry
