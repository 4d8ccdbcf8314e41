"""Short lists for a terminal: what can be asked, and what a folder of records holds."""

from pathlib import Path

from insloc_eval.protocols import PROTOCOLS
from insloc_eval.report.markdown import cell
from insloc_eval.store import Shelf
from insloc_hub.records import Result


def task_list() -> str:
    """Every protocol, by family, with what it asks for."""
    lines = []
    for protocol in sorted(PROTOCOLS, key=lambda p: p.title):
        needs = ("class folders" if protocol.needs_labels else "any images") + (" with boxes" if protocol.needs_boxes else "")
        lines.append(f"{protocol.title:22} {protocol.about} ({needs}; hash {protocol.hash()[:8]})")
        lines.append(f"{'':22} run so far: {protocol.ran}")
    families = ", ".join(sorted({protocol.family for protocol in PROTOCOLS}))
    return "\n".join([*lines, f"--task takes one of these, without @version the newest, or a family: {families}"])


def feature_list(folder: Path, kept: list[tuple[str, int, int]]) -> str:
    """One line a set of features: what, images, bytes; then the sum."""
    lines = [f"{size / 1e6:9.1f} MB  {images:7} images  {what}" for what, images, size in kept]
    total = sum(size for _, _, size in kept) / 1e6
    return "\n".join([*lines, f"{total:9.1f} MB in {len(kept)} sets of features in {folder}"])


def record_list(shelf: Shelf) -> str:
    """One line a record with its primary number, then what can't be used."""
    primary = {protocol.title: protocol.primary for protocol in PROTOCOLS}
    lines = []
    for result in sorted(shelf.results, key=lambda r: (r.protocol, r.model.spec, r.id)):
        lines.append(f"{result.id}  {result.protocol:22} {result.data.name:12} {_number(result, primary)}  {result.model.spec}")
    lines += [f"unusable: {problem}" for problem in shelf.problems]
    return "\n".join(lines) or "no records"


def _number(result: Result, primary: dict[str, str]) -> str:
    """The primary number, or why there is none."""
    if result.not_applicable:
        return f"not applicable ({result.not_applicable})"
    name = primary.get(result.protocol, "")
    name = name if name in result.metrics else next(iter(result.metrics))  # a network may lack the primary one's features
    return f"{name} {cell(result.metrics[name])}"
