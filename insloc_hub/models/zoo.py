"""Cards: exported folders with a name of ours, insloc_ARCH.TAG, in the places they are looked for (contracts.md 5)."""

from pathlib import Path

from insloc_hub.errors import UnknownName
from insloc_hub.files import home

CLONE_ZOO = Path(__file__).resolve().parents[2] / "zoo"  # a checkout's own; absent in an installed wheel


def zoo_folders() -> tuple[Path, ...]:
    """Where cards are looked for, in this order: the clone's zoo/, $INSLOC_HOME/zoo."""
    return (CLONE_ZOO, home() / "zoo")


def list_models() -> list[str]:
    """Names of the cards at hand; each is a spec for create_model. Besides them, any timm name is one."""
    found = set()
    for folder in zoo_folders():
        if folder.is_dir():
            found |= {p.name for p in folder.iterdir() if p.name.startswith("insloc_") and (p / "config.json").is_file()}
    return sorted(found)


def card_folder(name: str) -> Path:
    """The folder of a card. UnknownName: it is in none of the places, with the nearest that is."""
    for folder in zoo_folders():
        if (folder / name / "config.json").is_file():
            return folder / name
    see = f"insloc models; a folder becomes a card when it is copied to {home() / 'zoo' / 'insloc_ARCH.TAG'}"
    raise UnknownName("card", name, list_models(), see)
