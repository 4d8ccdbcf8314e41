"""One job: a model, a protocol, a data split and a seed. It knows its record's id before anything is computed."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from insloc_eval.origin import Origin
from insloc_eval.protocols import Protocol
from insloc_eval.sets import Split
from insloc_eval.stats import ONE_SEED
from insloc_hub.errors import InslocError
from insloc_hub.files import digest
from insloc_hub.models.extractor import Extractor
from insloc_hub.parallel import distributed
from insloc_hub.records import DataFacts, Metric, ModelFacts, Result, environment, record_id


class NotApplicable(InslocError):
    """A task that this architecture can't do; the text is the reason, and the record says it in place of numbers."""


class OutOfTime(Exception):
    """The caller's deadline ended the work; what was done is saved, and the same call goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a task's `run` is given."""

    extractor: Extractor
    protocol: Protocol
    split: Split
    data: DataFacts
    seed: int
    cache: Path
    """Folder of features."""
    shown: str
    """The model's name in records."""
    out: Path
    """Folder of records; unfinished work of long tasks is in there too."""
    spec: str = ""
    """The model as it was asked for."""
    parts_sha256: str = ""
    """Digest of the pretrained neck and head, where a detector starts from them too."""
    origin: Origin = field(default_factory=Origin)
    """Of the weights: seed and recipe of their pretraining."""
    command: str = ""
    deadline: float = math.inf
    """When to stop and save, on time.monotonic()'s clock."""
    started: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> ModelFacts:
        """For the record."""
        trunk = self.extractor.sha256
        sha256 = digest([trunk, self.parts_sha256]) if self.parts_sha256 else trunk
        return ModelFacts(spec=self.shown, arch=self.extractor.arch, sha256=sha256, recipe=self.origin.recipe)

    def check_time(self) -> None:
        """OutOfTime: the deadline has passed, in any process."""
        if self.deadline < math.inf and distributed.any_of(time.monotonic() >= self.deadline, self.extractor.device):
            raise OutOfTime

    @property
    def input_px(self) -> int:
        """Side of the network input on these images."""
        return self.protocol.input_px(self.split.median_short_px)

    @property
    def id(self) -> str:
        """The id that the result will have."""
        return record_id(
            task=self.protocol.family,
            protocol=self.protocol.title,
            protocol_hash=self.protocol.hash(self.extractor.precision),
            model=self.model,
            data=self.data,
            pretrain_seed=self.origin.seed,
            eval_seed=self.seed,
        )

    def result(
        self,
        metrics: dict[str, Metric],
        rows: dict[str, dict[str, float]],
        counts: dict[str, int],
        notes: tuple[str, ...],
        maps: dict[str, list[list[float]]] | None = None,
        not_applicable: str = "",
        by_class: dict[str, dict[str, float]] | None = None,
        curves: dict[str, list[list[float]]] | None = None,
    ) -> Result:
        """The record of what this job found, or of why there is nothing to find."""
        return Result(
            task=self.protocol.family,
            protocol=self.protocol.title,
            protocol_hash=self.protocol.hash(self.extractor.precision),
            model=self.model,
            data=self.data,
            pretrain_seed=self.origin.seed,
            eval_seed=self.seed,
            metrics=metrics,
            not_applicable=not_applicable,
            rows=rows,
            maps=maps or {},
            settings=self.protocol.numbers() if self.protocol.needs_detections else {},
            by_class=by_class or {},
            curves=curves or {},
            counts={"input_px": self.input_px, **self.split.counts, **counts},
            notes=(*self.split.notes, *notes, *(() if not_applicable else (ONE_SEED,))),
            env={**environment(), "device": device_name(self.extractor), "precision": self.extractor.precision},
            command=self.command,
            duration_s=round(time.monotonic() - self.started, 3),
        )


def device_name(extractor: Extractor) -> str:
    """cpu, or the name of the card."""
    kind = extractor.device.type
    return f"cuda: {torch.cuda.get_device_name(extractor.device)}" if kind == "cuda" else kind


def data_facts(split: Split, protocol: Protocol) -> DataFacts:
    """The data of a record. Where nothing is fitted the training images are no part of it."""
    half = "train and test" if protocol.needs_training else "test"
    return DataFacts(
        name=split.name,
        split=f"{half} of {split.how}",
        fingerprint=split.fingerprint(protocol.needs_training),
        n=split.tested,
    )
