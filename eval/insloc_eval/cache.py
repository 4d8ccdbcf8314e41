"""Frozen features on disk, by what they depend on: weights, feature spec, data (contracts.md 7).

FOLDER/<key>/features.safetensors with keys.json beside it. The JSON is written last and holds the digest of the other
file, so that half a pair, a cut file or a changed byte is noticed, said, and computed again. A cache that can't be
written costs time, never a run.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from insloc_eval.features import FeatureSpec, FeatureTable, extract
from insloc_hub.data.folder import ImageSet, Sample, read_sample
from insloc_hub.errors import BadImage, CannotWrite
from insloc_hub.files import digest, home, sha256_file, write_json, write_whole
from insloc_hub.models.extractor import Extractor
from insloc_hub.progress import say

SCHEMA = 1


def default_folder() -> Path:
    """Where features are kept unless --cache says otherwise."""
    return home() / "features"


def cached(extractor: Extractor, images: ImageSet, spec: FeatureSpec, folder: Path, label: str) -> FeatureTable:
    """The features of `images`, read from `folder` or computed and kept there."""
    return kept(extractor, images, spec, folder, lambda: extract(extractor, images.samples, spec, label))


def kept(
    extractor: Extractor, images: ImageSet, spec: FeatureSpec, folder: Path, compute: Callable[[], FeatureTable]
) -> FeatureTable:
    """The same where a task has a `compute` of its own, which `spec` must describe."""
    key = cache_key(extractor.sha256, spec, images.fingerprint())
    return read_or(folder / key, spec, compute, images.samples)


def cache_key(weights_sha256: str, spec: FeatureSpec, fingerprint: str) -> str:
    """Name of the folder that holds these features."""
    return digest([SCHEMA, weights_sha256, spec.hash, fingerprint])[:32]


def read_or(place: Path, spec: FeatureSpec, compute: Callable[[], FeatureTable], samples: Sequence[Sample]) -> FeatureTable:
    """What `place` holds, else what `compute` gives, which is then kept there."""
    if (place / "keys.json").exists():
        try:
            table = _read(place)
            if {*table.keys, *table.skipped} != {sample.key for sample in samples}:
                raise ValueError("its keys are not those of the images")
            if not _readable_now(samples, table):
                return table
            say(f"images that could not be read before can be read now; computing {place} again")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            say(f"cached features {place} are damaged ({error}); computing them again")
    table = compute()
    try:
        _write(place, table, spec)
    except (CannotWrite, SafetensorError) as error:
        say(f"features are not cached: {error}")
    return table


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One set of features on disk."""

    place: Path
    what: str
    """Transform, size, map and pooling; or that it is half-written."""
    images: int
    size_bytes: int


def entries(folder: Path) -> list[Entry]:
    """What is kept in `folder`, the largest first; empty where there is no such folder."""
    places = [place for place in folder.glob("*") if place.is_dir() and re.fullmatch(r"[0-9a-f]{32}", place.name)]
    return sorted((_entry(place) for place in places), key=lambda entry: (-entry.size_bytes, entry.place))


def clear(folder: Path) -> int:
    """Remove all features of `folder`, and nothing else that lies there; the bytes freed. CannotWrite."""
    found = entries(folder)
    for entry in found:
        try:
            shutil.rmtree(entry.place)
        except OSError as error:
            raise CannotWrite(entry.place, error.strerror or str(error)) from None
    return sum(entry.size_bytes for entry in found)


def _entry(place: Path) -> Entry:
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    try:
        facts = json.loads((place / "keys.json").read_text(encoding="utf-8"))
        spec = facts["spec"]
        what = f"{spec['transform']} {spec['size_px']} px, {spec['map']}, {spec['pooling']}, {spec['dtype']}"
        return Entry(place=place, what=what, images=len(facts["keys"]), size_bytes=size)
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(place=place, what="half-written", images=0, size_bytes=size)


def _readable_now(samples: Sequence[Sample], table: FeatureTable) -> bool:
    """Whether an image that was skipped has been mended: a permission leaves no trace in the fingerprint."""
    for sample in samples:
        if sample.key in table.skipped:
            with contextlib.suppress(BadImage):
                read_sample(sample)
                return True
    return False


def _read(place: Path) -> FeatureTable:
    facts = json.loads((place / "keys.json").read_text(encoding="utf-8"))
    weights = place / "features.safetensors"
    if sha256_file(weights) != facts["sha256"]:
        raise ValueError("the digest of features.safetensors is another one")
    values = load_file(weights)["features"]
    if len(values) != len(facts["keys"]):
        raise ValueError(f"{len(values)} rows for {len(facts['keys'])} keys")
    return FeatureTable(keys=tuple(facts["keys"]), values=values, skipped=dict(facts["skipped"]))


def _write(place: Path, table: FeatureTable, spec: FeatureSpec) -> None:
    weights = place / "features.safetensors"
    write_whole(weights, lambda part: save_file({"features": table.values.contiguous()}, part))
    facts = {"spec": asdict(spec), "keys": table.keys, "skipped": table.skipped, "sha256": sha256_file(weights)}
    write_json(place / "keys.json", facts)
