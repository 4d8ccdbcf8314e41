"""The table of tasks: family/name of a protocol -> the function that runs it. A new task is one file and one line here."""

from collections.abc import Callable

from insloc_eval.job import Job
from insloc_eval.store import Judged
from insloc_eval.tasks import boxes, composite, knn, linear, moco, mosaic, patches, relocate, sweep

TASKS: dict[str, Callable[[Job], Judged]] = {
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
