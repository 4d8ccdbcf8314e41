"""SRC -> DST in another ecosystem's names, proved before DST exists (`insloc convert`).

The proof: the oracle computes the source and the result, each from its own names, and the outputs of all stages agree; the
written file is read back and is bit for bit what was proved. If anything disagrees there is no output.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from insloc_hub.checkpoints.folder import check_folder, fill_folder
from insloc_hub.checkpoints.names import PARTS, Encoder, Part, part_of
from insloc_hub.checkpoints.oracle import activations
from insloc_hub.checkpoints.read import read_checkpoint
from insloc_hub.checkpoints.report import account, proof_line, stage_json
from insloc_hub.checkpoints.to_onnx import onnx_bytes
from insloc_hub.checkpoints.verify import Agreement, Loaded, compare, doubts, load, prove_mapping
from insloc_hub.checkpoints.write import TARGETS, check_suffix, spell_all, to_bytes
from insloc_hub.errors import BadCheckpoint, CannotWrite, InslocError
from insloc_hub.files import check_writable, write_whole

Choice = Literal["trunk", "fpn", "head", "all"]


class Disagreement(InslocError):
    """A conversion that its proof refuted: our mistake or a damaged source; nothing was written. Carries `agreements`."""

    def __init__(self, path: object, agreements: tuple[Agreement, ...]) -> None:
        self.agreements = agreements
        wrong = [row.stage for row in agreements if not row.agrees] or ["no stage"]
        super().__init__(
            f"{path}: the converted network computes something else than the source (from {wrong[0]} on), so nothing was "
            "written. Look at the source: insloc verify SRC; if it is sound, this is a mistake of insloc_hub"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What a conversion did."""

    out: Path
    account: str
    """What was used, dropped and unknown."""
    parts: tuple[Part, ...]
    left_out: tuple[str, ...]
    """Our names of what the source holds and the target has no place for."""
    absent: tuple[str, ...]
    """Our names of what the source may lack and does: counters, the head's second fc."""
    fresh: tuple[str, ...]
    """Beginnings of names that the target's detector has and no such file can hold."""
    agreements: tuple[Agreement, ...]
    doubts: tuple[str, ...]
    """Suspicions, unknown tensors, a preprocessing that the file does not tell."""
    hint: str

    def sentences(self) -> list[str]:
        """For people."""
        lines = [f"{self.account}; wrote {', '.join(self.parts)}", proof_line(self.agreements)]
        lines += [f"no place for {name}" for name in self.left_out]
        if self.absent:
            lines.append(f"{len(self.absent)} absent from the source and left out, e.g. {self.absent[0]}")
        if self.fresh:
            names = ", ".join(f"{name}*" for name in self.fresh)
            lines.append(f"fresh in the detector, since no such file holds them: {names}")
        lines += [f"warning: {line}" for line in self.doubts]
        return [*lines, f"wrote {self.out}; load it: {self.hint}"]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "out": str(self.out),
            "account": self.account,
            "parts": list(self.parts),
            "left_out": list(self.left_out),
            "absent": list(self.absent),
            "fresh": list(self.fresh),
            "stages": [stage_json(row) for row in self.agreements],
            "warnings": list(self.doubts),
        }


def convert(
    source: Path, to: str, out: Path, *, parts: Choice = "all", encoder: Encoder = "query", strict: bool = False
) -> Conversion:
    """Convert a file. BadCheckpoint: source; Disagreement: the proof failed; CannotWrite; with `strict`, any doubt."""
    _check_out(to, out)
    loaded = load(read_checkpoint(source), encoder)
    chosen = _chosen(loaded, to, parts)
    found = doubts(loaded)
    if strict and found:
        raise BadCheckpoint(source, f"refused under --strict: {'; '.join(found)}")
    agreements = prove_mapping(loaded)
    _hold(source, agreements)
    left_out: tuple[str, ...] = ()
    if to == "onnx":
        trunk = {name: tensor for name, tensor in loaded.tensors.items() if part_of(name) == "trunk"}
        data, agreements = onnx_bytes(loaded.recognised.arch, trunk, loaded.outputs)
        write_whole(out, lambda part: _write(part, data))
    elif to == "timm":
        _write_folder(out, loaded, _of_parts(loaded.tensors, chosen))
    else:
        agreements, left_out = _write_file(source, to, out, loaded, chosen)
    target = TARGETS.get(to)
    detector = set(chosen) != {"trunk"}
    return Conversion(
        out=out,
        account=account(loaded),
        parts=chosen,
        left_out=left_out,
        absent=loaded.recognised.absent,
        fresh=target.fresh if target and detector else (),
        agreements=agreements,
        doubts=found,
        hint=_hint(to, out),
    )


def _check_out(to: str, out: Path) -> None:
    """Before any work: a place to write, a name that its reader understands."""
    if to == "onnx" and out.suffix != ".onnx":
        raise InslocError(f"{out}: name it so that it ends in .onnx")
    if to == "timm" and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise CannotWrite(out, "timm's form is a folder, and there is something of that name already")
    if to not in ("onnx", "timm"):
        check_suffix(to, out)
        if out.is_dir():
            raise CannotWrite(out, "it is a folder, and this form is a file")
    check_writable(out.parent)


def _chosen(loaded: Loaded, to: str, parts: Choice) -> tuple[Part, ...]:
    """The parts to write. BadCheckpoint: the source has none of that name."""
    there = loaded.recognised.parts
    if to == "onnx":
        if parts not in ("all", "trunk"):
            raise InslocError(f"ONNX holds the trunk's maps and pooled vector; --parts {parts} can't be exported")
        return ("trunk",)
    if parts == "all":
        return there
    if parts not in there:
        raise BadCheckpoint(loaded.checkpoint.path, f"has no {parts}, only {', '.join(there)}; leave --parts out")
    if to == "timm" and parts != "trunk":
        raise InslocError(f"timm's folder always holds the trunk: say --parts all, or --parts trunk, not {parts}")
    return (parts,)


def _hint(to: str, out: Path) -> str:
    """How the reader loads it."""
    if to == "torchvision" and out.suffix == ".safetensors":
        return f"model.load_state_dict(safetensors.torch.load_file('{out}'), strict=False)"
    return (TARGETS[to].hint if to in TARGETS else "onnxruntime.InferenceSession('{out}')").format(out=out)


def _hold(source: Path, agreements: tuple[Agreement, ...]) -> None:
    if not agreements or not all(row.agrees for row in agreements):
        raise Disagreement(source, agreements)


def _of_parts(tensors: Mapping[str, Tensor], parts: tuple[Part, ...]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if part_of(name) in parts}


def _write_file(
    source: Path, to: str, out: Path, loaded: Loaded, parts: tuple[Part, ...]
) -> tuple[tuple[Agreement, ...], tuple[str, ...]]:
    """Prove the target's names with the trunk they stand on, then write the chosen parts and read them back."""
    target = TARGETS[to]
    layout = target.trunk if parts == ("trunk",) else target.detector
    whole, _ = spell_all(_of_parts(loaded.tensors, tuple(p for p in PARTS if p == "trunk" or p in parts)), layout)
    agreements = compare(loaded.outputs, activations({n: t.float() if t.is_floating_point() else t for n, t in whole.items()}))
    _hold(source, agreements)
    meant, left_out = spell_all(_of_parts(loaded.tensors, parts), layout)

    def write(part: Path) -> None:
        _write(part, to_bytes(meant, to, out.suffix))
        _same(out, read_checkpoint(part).tensors, meant)

    write_whole(out, write)
    return agreements, left_out


def _write_folder(out: Path, loaded: Loaded, tensors: Mapping[str, Tensor]) -> None:
    """timm's folder, made beside its place and moved there when timm has read it back."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        part.chmod(0o755)
    except OSError as error:
        raise CannotWrite(out, error.strerror or str(error)) from None
    try:
        fill_folder(part, loaded, tensors)
        check_folder(part, tensors)
        _same(out, read_checkpoint(part).tensors, tensors)
        part.replace(out)
    except OSError as error:
        raise CannotWrite(out, error.strerror or str(error)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _same(out: Path, read: Mapping[str, Tensor], meant: Mapping[str, Tensor]) -> None:
    """InslocError: what is on the disk is not what was proved."""
    wrong = [n for n in read.keys() | meant.keys() if n not in read or n not in meant or not torch.equal(read[n], meant[n])]
    if wrong:
        raise InslocError(
            f"{out}: read back, {len(wrong)} tensors differ from what was meant, e.g. {sorted(wrong)[0]}; not kept"
        )


def _write(part: Path, data: bytes) -> None:
    part.write_bytes(data)
