"""The table of tasks: family/name of a protocol -> the function that runs it. A new task is one file and one line here."""

from collections.abc import Callable

from insloc_eval.job import Job
from insloc_eval.protocols.detection import RECORDS
from insloc_eval.store import Judged
from insloc_eval.tasks import boxes, composite, detection, knn, linear, moco, mosaic, patches, relocate, sweep

DETECTORS = dict.fromkeys((f"{one.family}/{one.name}" for one in RECORDS), detection.run)

TASKS: dict[str, Callable[[Job], Judged]] = {
    **DETECTORS,
    "linear/logistic": linear.run,
    "linear/sweep": sweep.run,
    "linear/moco": moco.run,
    "knn/dino": knn.run,
    "patches/linear": patches.run,
    "patches/linear-c4": patches.run,
    "patches/isolated": patches.run,
    "patches/window": patches.run,
    "patches/relocate": relocate.run,
    "patches/composite": composite.run,
    "patches/composite-large": composite.run,
    "boxes/linear": boxes.run,
    "regions/mosaic": mosaic.run,
    "regions/mosaic-a": mosaic.run,
    "regions/mosaic-b": mosaic.run,
}
