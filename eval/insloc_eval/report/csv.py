"""Records -> CSV, one line a number: for a spreadsheet or a plot."""

import csv as table
import io
from collections.abc import Sequence

from insloc_hub.records import Result

COLUMNS = (
    "protocol",
    "data",
    "split",
    "fingerprint",
    "eval_seed",
    "pretrain_seed",
    "row",
    "kind",
    "metric",
    "value",
    "low",
    "high",
    "unit",
    "n",
    "record",
    "weights_sha256",
)


def csv(results: Sequence[Result]) -> str:
    """All numbers of all records; `kind` is model, reference for rows that need no network, or not applicable."""
    text = io.StringIO()
    writer = table.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in sorted(results, key=lambda r: (r.protocol, r.data.name, r.model.spec, r.id)):
        data, seed = result.data, result.pretrain_seed
        where = (result.protocol, data.name, data.split, data.fingerprint, result.eval_seed, "" if seed is None else seed)
        for name, m in result.metrics.items():
            numbers = (m.value, m.low, m.high, m.unit, m.n)
            writer.writerow((*where, result.model.spec, "model", name, *numbers, result.id, result.model.sha256))
        if result.not_applicable:
            empty = (result.not_applicable, "", "", "", "", "")
            writer.writerow((*where, result.model.spec, "not applicable", *empty, result.id, result.model.sha256))
        for row, values in result.rows.items():
            for name, value in values.items():
                writer.writerow((*where, row, "reference", name, value, "", "", "", "", result.id, ""))
    return text.getvalue()
