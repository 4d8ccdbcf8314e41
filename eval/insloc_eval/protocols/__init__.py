"""The table of evaluation protocols, and the look-up of what is asked: a family, or family/name[@version]. Torch-free."""

import re

from insloc_eval.protocols import detection, linear, localize, regions
from insloc_eval.protocols.detection import Detection
from insloc_eval.protocols.linear import LINEAR_LOGISTIC, Linear
from insloc_eval.protocols.localize import (
    PATCHES_COMPOSITE,
    PATCHES_COMPOSITE_LARGE,
    PATCHES_ISOLATED,
    PATCHES_LINEAR,
    PATCHES_LINEAR_C4,
    PATCHES_RELOCATE,
    PATCHES_WINDOW,
    Composite,
    Patches,
    PatchesC4,
    PatchesCut,
    Relocate,
)
from insloc_eval.protocols.record import Protocol, ReadOut
from insloc_eval.protocols.regions import (
    BOXES_LINEAR,
    REGIONS_MOSAIC,
    REGIONS_MOSAIC_A,
    REGIONS_MOSAIC_B,
    Boxes,
    Mosaic,
)
from insloc_hub.errors import UnknownName

__all__ = [
    "BOXES_LINEAR",
    "LINEAR_LOGISTIC",
    "PATCHES_COMPOSITE",
    "PATCHES_COMPOSITE_LARGE",
    "PATCHES_ISOLATED",
    "PATCHES_LINEAR",
    "PATCHES_LINEAR_C4",
    "PATCHES_RELOCATE",
    "PATCHES_WINDOW",
    "PROTOCOLS",
    "REGIONS_MOSAIC",
    "REGIONS_MOSAIC_A",
    "REGIONS_MOSAIC_B",
    "Boxes",
    "Composite",
    "Detection",
    "Linear",
    "Mosaic",
    "Patches",
    "PatchesC4",
    "PatchesCut",
    "Protocol",
    "ReadOut",
    "Relocate",
    "find_protocols",
    "known_tasks",
]

PROTOCOLS: tuple[Protocol, ...] = (*linear.RECORDS, *localize.RECORDS, *regions.RECORDS, *detection.RECORDS)


def find_protocols(tasks: list[str]) -> list[Protocol]:
    """The protocols meant by `tasks`, each a family or family/name[@version]; none twice. UnknownName: with the nearest.

    >>> [protocol.title for protocol in find_protocols(["patches/linear", "patches/linear@1"])]
    ['patches/linear@1']
    """
    found: list[Protocol] = []
    for task in tasks:
        hits = [protocol for protocol in PROTOCOLS if _meant(protocol, task)]
        if not hits:
            raise UnknownName("task", task, known_tasks(), "insloc-eval ls")
        found += [hit for hit in hits if hit not in found]
    return found


def known_tasks() -> list[str]:
    """Everything that `--task` takes."""
    families = sorted({protocol.family for protocol in PROTOCOLS})
    names = [f"{protocol.family}/{protocol.name}" for protocol in PROTOCOLS]
    return [*families, *names, *(protocol.title for protocol in PROTOCOLS)]


def _meant(protocol: Protocol, task: str) -> bool:
    match = re.fullmatch(r"([^/@]+)(?:/([^/@]+)(?:@(\d+))?)?", task)
    if not match:
        return False
    family, name, version = match.groups()
    return (
        protocol.family == family
        and (name == protocol.name or (name is None and protocol.by_family))
        and ((version is not None and int(version) == protocol.version) or (version is None and _newest(protocol)))
    )


def _newest(protocol: Protocol) -> bool:
    same = [p.version for p in PROTOCOLS if (p.family, p.name) == (protocol.family, protocol.name)]
    return protocol.version == max(same)
