"""patches/linear, linear-c4, isolated, window: which cell of a 3x3 grid over the image is this? paper.md D.1.

Diagnostics: in context, zero padding and the border of the image tell a network where it is, so that random weights can
score 1; cut out, content says little about where in the picture one looks. Read them beside the random rows only.
"""

import numpy as np
import torch

from insloc_eval.job import Job
from insloc_eval.logistic import read_out
from insloc_eval.protocols import Patches
from insloc_eval.sets import held_out
from insloc_eval.stats import mean, share
from insloc_eval.store import Judged, outcomes_of
from insloc_eval.tasks.cells import cell_tables
from insloc_eval.tasks.linear import counts_of, need_images
from insloc_hub.shapes import Float


def run(job: Job) -> Judged:
    """Share of cells that are put in their place and the mean distance in cells, image by image."""
    protocol = job.protocol
    assert isinstance(protocol, Patches)
    train, test = cell_tables(job)
    need_images(job, train, test)
    cells = protocol.grid**2
    # All cells of an image are held out together: they share its content.
    out = torch.tensor(held_out(list(train.keys), [0] * len(train.keys), protocol.held_out)).repeat_interleave(cells)
    labels = torch.arange(cells).repeat(len(train.keys))
    answer = read_out(train.values.flatten(0, 1), labels, out, test.values.flatten(0, 1), cells, protocol)
    guess = answer.scores.argmax(dim=1).reshape(-1, cells).cpu().numpy()
    gaps = cell_distances(protocol.grid)
    outcomes = {
        "top1": (guess == np.arange(cells)).mean(axis=1),
        "cell_distance": gaps[guess, np.arange(cells)].mean(axis=1),
    }
    counts, notes = counts_of(train, test)
    found = (guess == np.arange(cells)).mean(axis=0).reshape(protocol.grid, protocol.grid)
    result = job.result(
        metrics={
            "top1": share(outcomes["top1"], trials=cells),
            "cell_distance": mean(outcomes["cell_distance"], "cells"),
        },
        rows={"chance": {"top1": 1 / cells, "cell_distance": float(gaps.mean())}},
        counts={**counts, "cells": cells},
        notes=(*answer.notes, *notes),
        maps={"share of each cell that is put in its place": found.tolist()},
    )
    return Judged(result=result, outcomes=outcomes_of(test.keys, **outcomes))


def cell_distances(grid: int) -> Float[np.ndarray, "n n"]:
    """Distance between the centres of every two cells, in cells.

    >>> cell_distances(3)[0, 8].round(3)
    np.float64(2.828)
    """
    at = np.stack(np.divmod(np.arange(grid * grid), grid), axis=1).astype(np.float64)
    gaps: np.ndarray = np.linalg.norm(at[:, None] - at[None], axis=2)
    return gaps
