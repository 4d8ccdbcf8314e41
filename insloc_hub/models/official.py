"""The authors' four files: what a user downloaded -> a card of ours, proved, with a report to send (`insloc fetch --official`).

Nobody of us has seen these files (compat.md 5.1), so the report is what turns "never seen by us" into a digest: it says what
the file is by its content, and where that differs from what we infer.
"""

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from insloc_hub.checkpoints.convert import Conversion, convert
from insloc_hub.checkpoints.read import Checkpoint, read_checkpoint
from insloc_hub.errors import BadCheckpoint, CannotWrite, UnknownName
from insloc_hub.files import home, sha256_file, write_json
from insloc_hub.models.zoo import AUTHORS_LIST, Entry, entries

RAW = ("InsLoc-FPN", "InsLoc-C4")
AUTHOR = "Ceyuan"  # what the authors' converter writes into a pickle (compat.md 5.1)
TENSORS = {"c4": 318, "fpn": 394}  # of their converted files, by running their converter on synthetic ones (compat.md 5.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """A file of the authors' that is a card now."""

    name: str
    folder: Path
    report: dict[str, Any]
    """What to send us."""
    conversion: Conversion

    def sentences(self) -> list[str]:
        """For people, the report last."""
        lines = [*self.conversion.sentences()[:-1], f"wrote {self.folder}; use it: insloc_hub.load({self.name!r})"]
        odd = self.report["unexpected"]
        lines += [f"not as we infer it: {line}" for line in odd]
        lines.append("Please send us what follows, as an issue of insloc_hub: with it the card can name a sha256.")
        return [*lines, json.dumps(self.report, indent=2, ensure_ascii=False)]


def adopt(file: Path, name: str | None = None) -> Adopted:
    """Convert and prove `file`, and put it at $INSLOC_HOME/zoo/NAME. Without `name` the file's own name has to say the epochs.

    BadCheckpoint: it is none of the four, or not the one that `name` says. UnknownName. CannotWrite.
    """
    four = {known: entry for known, entry in entries().items() if entry.origin == "official"}
    if name is not None and name not in four:
        raise UnknownName("official checkpoint", name, four, "insloc models")
    checkpoint = read_checkpoint(file)
    source = sha256_file(file)
    digest = {entry.source_sha256: known for known, entry in four.items() if entry.source_sha256}
    place = home() / "zoo"
    try:
        place.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".official.", dir=place))
    except OSError as error:
        raise CannotWrite(place, error.strerror or str(error)) from None
    try:
        conversion = convert(file, "timm", scratch / "model")
        facts = json.loads((scratch / "model" / "config.json").read_text(encoding="utf-8"))
        name = name or digest.get(source) or name_of(file, variant_of(file, facts), four)
        entry = four[name]
        check_is(file, source, entry, variant_of(file, facts))
        report = make_report(file, source, checkpoint, facts, conversion, entry)
        facts["insloc"]["official"] = {"name": name, "source": entry.source, "listed": AUTHORS_LIST, "source_sha256": source}
        facts["insloc"]["terms"] = f"{entry.licence}; the training images' terms apply too"
        facts["pretrained_cfg"]["tag"] = name.partition(".")[2]
        write_json(scratch / "model" / "config.json", facts)
        _settle(scratch / "model", place / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Adopted(name=name, folder=place / name, report=report, conversion=conversion)


def variant_of(file: Path, config: dict[str, Any]) -> str:
    """c4 or fpn, by what a converted file holds. BadCheckpoint: of another layout or architecture than the authors' files."""
    layout = config["insloc"]["converted_from"]["layout"]
    if config["architecture"] != "resnet50" or not (layout in RAW or layout.startswith("detectron2")):
        raise BadCheckpoint(
            file,
            f"holds a {config['architecture']} of the layout {layout}; the authors' files are resnet50 in detectron2's "
            "or in their training code's names. Any other file: insloc convert FILE --to timm --out FOLDER",
        )
    return "fpn" if config["insloc"]["parts"] else "c4"


def name_of(file: Path, variant: str, four: dict[str, Entry]) -> str:
    """The card by content and, for the epochs, by the file's name. BadCheckpoint: it says neither 200 nor 400."""
    epochs = set(re.findall(r"(?<!\d)([24]00)(?!\d)", file.stem))
    found = [name for name in four if f".{variant}_" in name and f"_{''.join(epochs)}ep" in name]
    if len(found) != 1:
        some = " or ".join(name for name in four if f".{variant}_" in name)
        raise BadCheckpoint(
            file,
            f"its content says {variant}, and nothing in it or in its name says how many epochs. "
            f"Say which it is: insloc fetch NAME --official FILE, where NAME is {some}",
        )
    return found[0]


def check_is(file: Path, sha256: str, entry: Entry, variant: str) -> None:
    """BadCheckpoint: the file can't be the one that `entry` is about."""
    if f".{variant}_" not in entry.name:
        what = "a pyramid and a box head" if variant == "fpn" else "no pyramid"
        raise BadCheckpoint(file, f"holds {what}, so it is a {variant} file and not {entry.name}. Leave the name out")
    if entry.source_sha256 not in (None, sha256):
        raise BadCheckpoint(
            file, f"has sha256 {sha256}; the file of {entry.name} that others got has {entry.source_sha256}. Download it again"
        )


def make_report(
    file: Path, sha256: str, checkpoint: Checkpoint, config: dict[str, Any], conversion: Conversion, entry: Entry
) -> dict[str, Any]:
    """What somebody needs to write the digests into zoo.json, and to see where our inference was wrong."""
    ours = config["insloc"]
    variant, layout = variant_of(file, config), ours["converted_from"]["layout"]
    odd = []
    if layout not in RAW and checkpoint.author != AUTHOR:
        odd.append(f"its author is {checkpoint.author!r}, inferred {AUTHOR!r}")
    if layout not in RAW and len(checkpoint.tensors) != TENSORS[variant]:
        odd.append(f"it has {len(checkpoint.tensors)} tensors, inferred {TENSORS[variant]}")
    return {
        "name": entry.name,
        "file": file.name,
        "bytes": file.stat().st_size,
        "source_sha256": sha256,
        "known_before": entry.source_sha256 is not None,
        "form": checkpoint.form,
        "author": checkpoint.author,
        "layout": layout,
        "tensors": len(checkpoint.tensors),
        "account": conversion.account,
        "sha256": ours["sha256"],
        "parts": ours["parts"],
        "proof": conversion.as_json()["stages"],
        "unexpected": odd,
        "warnings": list(conversion.doubts),
        "versions": {package: metadata.version(package) for package in ("insloc_hub", "torch", "timm")},
    }


def _settle(folder: Path, target: Path) -> None:
    """Move the finished folder to its place. BadCheckpoint: other weights of that name lie there. CannotWrite."""
    try:
        if target.exists():
            if sha256_file(target / "model.safetensors") != sha256_file(folder / "model.safetensors"):
                raise BadCheckpoint(target, "holds other weights of this name. Move it away, then do the same again")
            shutil.rmtree(target)
        folder.replace(target)
    except OSError as error:
        raise CannotWrite(target, error.strerror or str(error)) from None
