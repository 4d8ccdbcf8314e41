"""What a user asks of a run, checked before anything heavy is imported, and the command line that asks it again."""

import math
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from insloc_eval.protocols import Detection, Protocol, find_protocols
from insloc_eval.protocols.detection import GAINS, adapted
from insloc_hub.data.shards import shard_files
from insloc_hub.errors import BadData, InslocError
from insloc_hub.files import check_writable
from insloc_hub.models.spec import parse_spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What a user may change of a detection protocol; another value is another protocol by its hash."""

    seeds: int = 1
    """Fine-tunings of each detector, with seeds from the asked one on."""
    init_parts: str | None = None
    extra_norm: str | None = None
    """on or off."""
    batch_size: int | None = None
    steps: int | None = None
    decompose: bool = False
    """Instead of one detector those that split a gain into trunk, neck, head and norm (detection/decompose.py)."""

    def of(self, protocol: Protocol) -> list[Protocol]:
        """The protocol as asked, or its arms; InslocError: it can't be that."""
        if not isinstance(protocol, Detection):
            return [protocol]
        if not self.decompose:
            return [self._adapted(protocol)]
        if self.init_parts is not None or self.extra_norm is not None or protocol.variant != "fpn":
            raise InslocError(
                f"--decompose runs an FPN protocol with its own --init-parts and --extra-norm; {protocol.title} can't be split"
            )
        named = [replace(self, init_parts=parts, extra_norm="on" if norm else "off") for parts, norm in GAINS]
        return [one._adapted(protocol) for one in named]

    def _adapted(self, protocol: Detection) -> Detection:
        return adapted(
            protocol,
            init_parts=self.init_parts,
            extra_norm=None if self.extra_norm is None else self.extra_norm == "on",
            batch=self.batch_size,
            steps=self.steps,
        )

    def base(self, protocol: Protocol) -> Protocol:
        """The arm of a split gain in which nothing but the trunk is initialised."""
        return replace(protocol, init_parts="trunk", extra_norm=False) if isinstance(protocol, Detection) else protocol

    def words(self) -> list[str]:
        """Of the command line."""
        words = [] if self.seeds == 1 else ["--seeds", str(self.seeds)]
        for option, value in (
            ("--init-parts", self.init_parts),
            ("--extra-norm", self.extra_norm),
            ("--batch-size", self.batch_size),
            ("--steps", self.steps),
        ):
            words += [] if value is None else [option, str(value)]
        return [*words, "--decompose"] if self.decompose else words


PRECISIONS = ("fp32", "bf16")
HALVES = ("A", "B")  # of the test images: for choosing, for what is reported (contracts.md 10)
FEWEST_TEST = 2  # images: an interval needs a variance


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One run: which models, judged by what, on which images."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    data: Path
    out: Path
    device: str = "auto"
    precision: str = "fp32"
    seed: int = 0
    train_limit: int | None = None
    test_limit: int | None = None
    cache: Path | None = None
    half: str = ""
    """A or B: that half of the test images only; empty: all of them."""
    tuning: Tuning = Tuning()
    """Of detectors."""
    deadline: float = math.inf
    """When to stop and save, on time.monotonic()'s clock."""

    def protocols(self) -> list[Protocol]:
        """The protocols that `tasks` mean, as they are asked for. UnknownName, InslocError."""
        return [one for protocol in find_protocols(list(self.tasks)) for one in self.tuning.of(protocol)]

    def protocols_for(self, spec: str) -> list[Protocol]:
        """Those for one model: of a split gain a random model can have the trunk alone."""
        random = self.tuning.decompose and spec.startswith("random:")
        return [one for one in self.protocols() if not random or one == self.tuning.base(one)]

    def seeds_of(self, protocol: Protocol) -> range:
        """Evaluation seeds."""
        return range(self.seed, self.seed + (self.tuning.seeds if protocol.needs_detections else 1))

    def check(self) -> None:
        """Refuse what can't work, in words, before hours go into it. InslocError."""
        for option, values in (("--model", self.models), ("--task", self.tasks)):
            if not values:
                raise InslocError(f"nothing to judge: give at least one {option}")
        self._check_detectors()
        if self.precision not in PRECISIONS:
            raise InslocError(f"unknown precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        if self.seed < 0:
            raise InslocError(f"--seed {self.seed}: must not be negative")
        for option, limit in (("--train-limit", self.train_limit), ("--test-limit", self.test_limit)):
            if limit is not None and limit < FEWEST_TEST:
                raise InslocError(f"{option} {limit}: must be at least {FEWEST_TEST}")
        if self.half not in ("", *HALVES):
            raise InslocError(f"unknown half {self.half!r}; there are {', '.join(HALVES)}")
        if own := [protocol.title for protocol in self.protocols() if self.half and hasattr(protocol, "half")]:
            raise InslocError(f"--half {self.half}: {own[0]} halves the test images itself; ask for regions/mosaic-a or -b")
        for spec in self.models:
            parse_spec(spec)
        check_data(self.data)
        check_writable(self.out)

    def _check_detectors(self) -> None:
        """InslocError: an option that is for detectors only, or for all else only."""
        protocols = self.protocols()
        if self.tuning.seeds < 1:
            raise InslocError(f"--seeds {self.tuning.seeds}: must be at least 1")
        frozen = [protocol.title for protocol in protocols if not protocol.needs_detections]
        if self.tuning != Tuning() and frozen:
            raise InslocError(f"{self.tuning.words()[0]} is for detectors (--task detection/NAME), and {frozen[0]} trains none")
        if self.half and len(frozen) < len(protocols):
            raise InslocError(f"--half {self.half}: detectors are asked on all test images; use --test-limit")

    def command(self) -> str:
        """The command line that asks the same, without the folders of this machine."""
        words = ["insloc-eval", "run"]
        words += [word for spec in self.models for word in ("--model", shown(spec))]
        words += [word for task in self.tasks for word in ("--task", task)]
        words += ["--data", shown(str(self.data)), "--out", shown(str(self.out)), "--seed", str(self.seed)]
        words += ["--precision", self.precision] if self.precision != "fp32" else []
        for option, limit in (("--train-limit", self.train_limit), ("--test-limit", self.test_limit)):
            words += [] if limit is None else [option, str(limit)]
        words += ["--half", self.half] if self.half else []
        words += self.tuning.words()
        return shlex.join(words)


def check_data(data: Path) -> None:
    """BadData: no such place, or half a pair of folders."""
    if not data.exists():
        raise BadData(data, "no such folder. --data takes a folder with train/ and val/, with class folders, or of images")
    halves = [name for name in ("train", "val") if (data / name).is_dir() or shard_files(data / name)]
    if len(halves) == 1:
        missing = "val" if halves == ["train"] else "train"
        raise BadData(data, f"has {halves[0]}/ but no {missing}/. Add it, or give {data / halves[0]} to have it cut 80/20")


def shown(name: str) -> str:
    """A model or folder as records name it: a path of this machine keeps its last two parts, all else stays.

    >>> shown("/data/runs/first/model"), shown("random:resnet18"), shown("runs/first")
    ('first/model', 'random:resnet18', 'runs/first')
    """
    prefix, path = ("local-dir:", name.removeprefix("local-dir:")) if name.startswith("local-dir:") else ("", name)
    if not os.path.isabs(path) and not path.startswith("~"):
        return name
    place = Path(path)
    here = Path.cwd()
    inside = place.is_relative_to(here) and place != here
    return prefix + (place.relative_to(here).as_posix() if inside else "/".join(place.parts[-2:]))
