"""Detectors fine-tuned from the primary arms' trunks and from random weights: on BCCD, then on the photographs.

Each can be cut at any step of its training, or before any look at the test pictures, and gone on with to the same record.
"""

from dataclasses import replace
from pathlib import Path

from insloc_eval.run import evaluate
from insloc_hub.errors import BadRun
from insloc_hub.progress import say
from insloc_hub.records import Result
from reference.judge import finished_runs, open_half_b
from reference.plan import PRIMARY_ARMS, Asked, recipe_of
from reference.train import Clock, note, run_folder

NO_CELLS = (
    "BCCD is left out: no --bccd, and no unpacked folder bccd in INSLOC_DATA. Unpack bccd.tar, give --bccd FOLDER, and "
    "give this stage again"
)


def detect(asked: Asked, clock: Clock) -> list[Result]:
    """Every detector of the setting. OutOfTime. BadRun: no finished run, or too few of them to open half B.

    Detectors on the photographs are asked on all test images, hence on half B too: it is opened for them. BCCD has no halves.
    """
    runs = primary_runs(asked)
    if not runs:
        raise BadRun(f"no finished run of {' or '.join(PRIMARY_ARMS)} to fine-tune; train them (stage main)")
    models = [*map(str, runs), f"random:{recipe_of(asked, PRIMARY_ARMS[0], asked.seeds[0], {}).arch}"]
    results = []
    if asked.bccd is None:
        say(NO_CELLS)
        note(asked, {"left_out": asked.setting.cells, "why": NO_CELLS})
    else:
        results += fine_tune(asked, models, asked.setting.cells, asked.bccd, clock)
    for task in asked.setting.detection:
        open_half_b(asked, runs)
        results += fine_tune(asked, models, task, asked.data, clock)
    return results


def primary_runs(asked: Asked) -> list[Path]:
    """The finished runs of the primary arms, seed by seed."""
    ended = finished_runs(asked)
    return [run for seed in asked.seeds for arm in PRIMARY_ARMS if (run := run_folder(asked, arm, seed)) in ended]


def fine_tune(asked: Asked, models: list[str], task: str, data: Path, clock: Clock) -> list[Result]:
    """The records of `models` by one protocol, fine-tuning seed by seed so that a cut leaves whole comparisons. OutOfTime."""
    setting, found = asked.setting, []
    for seed in range(setting.tuning.seeds):
        found += evaluate(
            models,
            [task],
            data,
            asked.records,
            device=asked.device,
            precision=asked.precision,
            seed=seed,
            train_limit=setting.picture_limit,
            test_limit=setting.picture_limit,
            tuning=replace(setting.tuning, seeds=1),
            deadline=clock.deadline,
        )
    return found
