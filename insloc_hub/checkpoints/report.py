"""What convert and verify found, in sentences for people and as JSON for machines."""

from collections.abc import Sequence
from typing import Any

from insloc_hub.checkpoints.names import PARTS
from insloc_hub.checkpoints.suspicions import cannot_know
from insloc_hub.checkpoints.verify import Agreement, Loaded, Verdict

MOST_NAMES = 3  # names that a sentence shows of a longer list


def account(loaded: Loaded) -> str:
    """One breath: what of the file is used, what is dropped by which rule, and which layout it is."""
    known = loaded.recognised
    used = ", ".join("{} of {} {} tensors used".format(*known.count(part), part) for part in PARTS if part in known.parts)
    dropped = [f"{len(names)} dropped by rule {rule!r}" for rule, names in known.dropped.items()]
    unknown = [f"{len(known.unknown)} unknown ({_some(known.unknown)})"] if known.unknown else []
    layout = f"layout {known.layout.name} ({known.encoder})" if known.layout.twin else f"layout {known.layout.name}"
    return ", ".join([used, *dropped, *unknown, f"{layout}, {known.arch}"])


def as_json(verdict: Verdict) -> dict[str, Any]:
    """For machines: the same facts as the text."""
    return {
        "agrees": verdict.agrees,
        "files": [_file_json(loaded) for loaded in verdict.files],
        "stages": [stage_json(row) for row in verdict.agreements],
        "differences": dict(verdict.differences),
        "unshared": list(verdict.unshared),
        "suspicions": list(verdict.suspicions),
    }


def _file_json(loaded: Loaded) -> dict[str, Any]:
    known, file, fed = loaded.recognised, loaded.checkpoint, loaded.convention
    return {
        "path": file.path,
        "form": file.form,
        "author": file.author,
        "layout": known.layout.name,
        "arch": known.arch,
        "encoder": known.encoder,
        "parts": {part: dict(zip(("used", "of"), known.count(part), strict=True)) for part in known.parts},
        "dropped": {rule: len(names) for rule, names in known.dropped.items()},
        "unknown": list(known.unknown),
        "absent": len(known.absent),
        "left_alone": list(file.others),
        "input": {"order": fed.order, "mean_std": fed.mean_std, "stride_in": fed.stride_in, "why": fed.why},
        "cannot_know": list(cannot_know(fed, file)),
    }


def stage_json(row: Agreement) -> dict[str, Any]:
    """One stage; JSON has no infinity, so a difference without a number is null."""
    numbers = {"max_abs": row.max_abs, "largest": row.largest, "cosine": row.cosine}
    return {"stage": row.stage, "agrees": row.agrees, **{key: _number(value) for key, value in numbers.items()}}


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def as_text(verdict: Verdict) -> str:
    """For people: what each file is and wants, stage by stage whether they agree, what differs and what is suspicious."""
    lines: list[str] = []
    for loaded in verdict.files:
        file, fed = loaded.checkpoint, loaded.convention
        lines += [f"{file.path}: {account(loaded)}", f"  form {file.form}" + (f", by {file.author!r}" if file.author else "")]
        lines.append(f"  input {fed.order}, mean and std {fed.mean_std}, stride in the {fed.stride_in} convolution: {fed.why}")
        if loaded.recognised.absent:
            lines.append(f"  absent, as such a file may: {_some(loaded.recognised.absent)}")
        if file.others:
            lines.append(f"  left alone: {', '.join(file.others)}")
    two = len(verdict.files) == 2
    lines.append("two files, each computed from its own names:" if two else "the file's own names against timm with our names:")
    lines += [_stage_line(row) for row in verdict.agreements]
    lines += [f"  {len(names)} tensors are {kind}: {_some(names)}" for kind, names in verdict.differences.items()]
    if verdict.unshared:
        lines.append(f"  only one of them has {_some(verdict.unshared)}")
    lines += [f"  suspicious: {line}" for line in verdict.suspicions]
    if not two:
        only = verdict.files[0]
        lines += [f"  can't be known: {line}" for line in cannot_know(only.convention, only.checkpoint)]
        lines.append(
            f"  can be converted to: timm, torchvision, detectron2, mmdet ({', '.join(only.recognised.parts)}), onnx (trunk)"
        )
    good = "the same network" if two else "loads as what it says"
    lines.append(good if verdict.agrees else "NOT " + good)
    return "\n".join(lines)


def proof_line(agreements: Sequence[Agreement]) -> str:
    """One sentence about a proof that held."""
    worst = max(row.max_abs / row.largest if row.largest else row.max_abs for row in agreements)
    cosine = min(row.cosine for row in agreements)
    stages = ", ".join(row.stage for row in agreements)
    return f"proved: {stages} agree on a probe; largest relative difference {worst:.1e}, smallest cosine {cosine:.6f}"


def _stage_line(row: Agreement) -> str:
    mark = "agrees" if row.agrees else "DIFFERS"
    return f"  {row.stage:5s} {mark:8s} largest difference {row.max_abs:.2e} of {row.largest:.2e}, cosine {row.cosine:.6f}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
