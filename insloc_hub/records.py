"""A result: one number with everything that makes it believable (contracts.md 6). Torch-free.

One frozen `Result`, one file each: RESULTS/<task>/<id>.json; per-image outcomes beside it as <id>.npz. The id is the
hash of the fields before `metrics`: what was asked, of what, on what. "The same record" = same id and same metrics.
"""

import dataclasses
import functools
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from insloc_hub.errors import BadData
from insloc_hub.files import digest

SCHEMA = 3
ID_RULE = 1  # how an id is made; fields outside it may change the schema, but not the id of what was asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A value with its 95 % interval. `value`, `low` and `high` share `unit`; `n` is the number of sampling units."""

    value: float
    low: float
    high: float
    unit: str
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """Whose features were judged."""

    spec: str
    arch: str
    sha256: str
    """Digest of the weights as loaded (insloc_hub.models.create.weights_digest)."""
    recipe: str = ""
    """Digest of the pretraining recipe without its seed, where the model's folder says it: seeds of one arm share it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What it was judged on."""

    name: str
    split: str
    fingerprint: str
    """Digest of the sorted keys, labels, boxes and file sizes."""
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One task, one protocol, one model, one data set, one pair of seeds."""

    schema: int = SCHEMA
    task: str
    protocol: str
    """Family/name@version, e.g. patches/relocate@1."""
    protocol_hash: str
    model: ModelFacts
    data: DataFacts
    pretrain_seed: int | None
    """From the exported folder's config.json, or of a random model its own; None where it is not known."""
    eval_seed: int
    metrics: dict[str, Metric]
    not_applicable: str = ""
    """Why this model can't do this task; then there are no metrics. Empty where it was judged."""
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    """Reference rows that need no network: row name -> metric name -> value (constant box, chance, ...)."""
    maps: dict[str, list[list[float]]] = field(default_factory=dict)
    """Name -> small table over the image, row by row from its top, values in 0..1: where a task succeeds."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The protocol's numbers, where a user may change some of them; two records differ in what differs here."""
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metric name -> class name -> value, without intervals."""
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    """Name -> [step, value] in order: losses, and metrics at intermediate steps."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was used, dropped and why."""
    notes: tuple[str, ...] = ()
    """Sentences that a report must print beside the numbers."""
    env: dict[str, str] = field(default_factory=dict)
    command: str = ""
    duration_s: float = 0.0

    @property
    def id(self) -> str:
        """The first 16 hex digits of the hash of every field before `metrics`."""
        return record_id(
            task=self.task,
            protocol=self.protocol,
            protocol_hash=self.protocol_hash,
            model=self.model,
            data=self.data,
            pretrain_seed=self.pretrain_seed,
            eval_seed=self.eval_seed,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the id first."""
        return {"id": self.id, **dataclasses.asdict(self)}


def record_id(
    *,
    task: str,
    protocol: str,
    protocol_hash: str,
    model: ModelFacts,
    data: DataFacts,
    pretrain_seed: int | None,
    eval_seed: int,
) -> str:
    """The id a result will have, known before it is computed: how a finished record is found again.

    The spec is not in it: the same weights under two names are one model.
    """
    return digest(
        {
            "schema": ID_RULE,
            "task": task,
            "protocol": protocol,
            "protocol_hash": protocol_hash,
            "model": [model.arch, model.sha256],
            "data": dataclasses.asdict(data),
            "seeds": [pretrain_seed, eval_seed],
        }
    )[:16]


def result_from_dict(values: dict[str, Any], path: object) -> Result:
    """Read what `as_dict` wrote. BadData: not a record, a newer schema, or an id that its fields do not give."""
    schema = values.get("schema")
    if not isinstance(schema, int):
        raise BadData(path, "is no result record (it has no schema number)")
    if schema > SCHEMA:
        raise BadData(path, f"has schema {schema}; this insloc_hub reads up to {SCHEMA}. Install a newer insloc_hub")
    try:
        values = from_schema_1(values) if schema == 1 else values
        values = from_schema_2(values) if values["schema"] == 2 else values
        fields = {key: value for key, value in values.items() if key != "id"}
        fields["model"] = ModelFacts(**fields["model"])
        fields["data"] = DataFacts(**fields["data"])
        fields["metrics"] = {name: Metric(**metric) for name, metric in fields["metrics"].items()}
        fields["notes"] = tuple(fields["notes"])
        result = Result(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadData(path, f"is no complete result record ({error})") from None
    if result.id != values.get("id"):
        raise BadData(path, f"says id {values.get('id')!r}, but its fields give {result.id!r}: it was edited by hand")
    return result


def from_schema_1(values: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1 as schema 2 has it: every record was applicable, and none had maps."""
    return {**values, "schema": 2, "not_applicable": "", "maps": {}}


def from_schema_2(values: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 2 as schema 3 has it: none was of a task with settings, classes or curves."""
    return {**values, "schema": 3, "settings": {}, "by_class": {}, "curves": {}}


def environment() -> dict[str, str]:
    """Versions and machine facts for a record; host names and paths are nobody's business."""
    names = ("insloc_hub", "torch", "torchvision", "timm", "numpy", "scipy", "pillow")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = checkout()
    found |= {"git": commit} if commit else {}
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    return {**found, "python": platform.python_version(), "machine": machine, "system": sys.platform}


@functools.cache
def checkout(package: Path = Path(__file__).parent) -> str:
    """Commit of the checkout that this package runs from, "+changes" where tracked files differ; empty outside of one."""
    root = package.parent
    if not (root / ".git").exists():
        return ""
    answers = []
    for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(root), *question], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        if done.returncode:
            return ""
        answers.append(done.stdout.strip())
    return answers[0] + ("+changes" if answers[1] else "")
