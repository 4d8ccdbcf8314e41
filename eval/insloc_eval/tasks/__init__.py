"""The table of tasks: family/name of a protocol -> the function that runs it. A new task is one file and one line here."""

from collections.abc import Callable

from insloc_eval.job import Job
from insloc_eval.store import Judged
from insloc_eval.tasks import linear, patches, relocate

TASKS: dict[str, Callable[[Job], Judged]] = {
    "linear/logistic": linear.run,
    "patches/linear": patches.run,
    "patches/relocate": relocate.run,
}
