"""Proof that two files are one network, or that one file is what our tables say it is (`insloc verify`).

Whatever is compared is computed on one side by the oracle from the file's own names, so that a wrong table shows. The
numbers are outputs of each stage on a fixed picture; beside them every tensor is accounted for and compared bit by bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

from insloc_hub.checkpoints.differences import differences
from insloc_hub.checkpoints.layouts import Recognised, recognise
from insloc_hub.checkpoints.names import COUNTER, Convention, Encoder, spellings, trunk_shapes, wrapper_of
from insloc_hub.checkpoints.oracle import activations, probe_image
from insloc_hub.checkpoints.read import Checkpoint
from insloc_hub.checkpoints.suspicions import convention_of, suspicions
from insloc_hub.errors import BadCheckpoint

TOLERANCE = 1e-5  # of the largest value of a stage; equal weights give 0 to 2e-6 here, whatever the network's depth


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """One stage's output in two networks."""

    stage: str
    max_abs: float
    """Largest difference."""
    largest: float
    """Largest value of the first network."""
    cosine: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding."""
        return self.max_abs <= TOLERANCE * self.largest


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A file, what its names mean, and its tensors under our names, in float32 where they were shorter."""

    checkpoint: Checkpoint
    recognised: Recognised
    tensors: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    """The oracle's activations, from the file's own names."""

    @property
    def convention(self) -> Convention:
        """What the network must be fed."""
        return convention_of(self.checkpoint, self.recognised)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What `insloc verify` found."""

    files: tuple[Loaded, ...]
    agreements: tuple[Agreement, ...]
    differences: Mapping[str, list[str]]
    """Kind -> our names; of the second file against the first."""
    unshared: tuple[str, ...]
    """Our names that only one of the two files has; counters aside."""
    suspicions: tuple[str, ...]
    """Each with its file where there are two."""

    @property
    def agrees(self) -> bool:
        """Whether every stage agrees and no tensor differs."""
        return bool(self.agreements) and all(row.agrees for row in self.agreements) and not self.differences

    @property
    def doubtful(self) -> bool:
        """Whether anything is suspicious, of unknown use, or made for an unknown input."""
        unknown = any(loaded.recognised.unknown or loaded.convention.order == "unknown" for loaded in self.files)
        return bool(self.suspicions) or unknown


def load(checkpoint: Checkpoint, encoder: Encoder = "query") -> Loaded:
    """Recognise a file and run it in the oracle. BadCheckpoint: unknown, or its tensors make no network."""
    recognised = recognise(checkpoint.path, checkpoint.tensors, encoder)
    tensors = {ours: checkpoint.tensors[theirs] for ours, theirs in recognised.used.items()}
    try:
        outputs = activations(_floats(checkpoint.tensors), encoder)
    except (KeyError, RuntimeError, StopIteration) as error:
        problem = f"names of layout {recognised.layout.name}, but its tensors make no network ({type(error).__name__}: {error})"
        raise BadCheckpoint(checkpoint.path, problem) from None
    return Loaded(checkpoint=checkpoint, recognised=recognised, tensors=tensors, outputs=outputs)


def verify_one(checkpoint: Checkpoint, encoder: Encoder = "query") -> Verdict:
    """Is the file what its layout says, and does timm compute with our mapping what the oracle computes from the file?"""
    loaded = load(checkpoint, encoder)
    return Verdict(
        files=(loaded,),
        agreements=prove_mapping(loaded),
        differences={},
        unshared=(),
        suspicions=suspicions(loaded.tensors, loaded.outputs),
    )


def verify_two(a: Checkpoint, b: Checkpoint, encoder: Encoder = "query") -> Verdict:
    """Are two files one network? `encoder` chooses in `a`, and in `b` if that has two."""
    first = load(a, encoder)
    return judge(first, load(b, encoder if _has_twin(b) else "query"))


def judge(first: Loaded, second: Loaded) -> Verdict:
    """Compare two loaded files: outputs of the oracle, tensors under our names, and what is odd about either."""
    one_sided = first.tensors.keys() ^ second.tensors.keys()
    odd = [f"{x.checkpoint.path}: {line}" for x in (first, second) for line in suspicions(x.tensors, x.outputs)]
    return Verdict(
        files=(first, second),
        agreements=compare(first.outputs, second.outputs),
        differences=differences(first.tensors, second.tensors, twin_tensors(first)),
        unshared=tuple(sorted(name for name in one_sided if not name.endswith(COUNTER))),
        suspicions=tuple(odd),
    )


def prove_mapping(loaded: Loaded) -> tuple[Agreement, ...]:
    """The oracle on the file's own names against our names: the trunk in timm's network, pyramid and head in the oracle."""
    ours = activations(_floats(loaded.tensors))
    model = timm_trunk(loaded.recognised.arch, _floats(loaded.tensors))
    with torch.no_grad():
        maps = model.forward_intermediates(probe_image(), indices=[0, 1, 2, 3, 4], intermediates_only=True)  # type: ignore[operator]
    ours |= dict(zip(("stem", "c2", "c3", "c4", "c5"), maps, strict=True))
    return compare(loaded.outputs, ours)


def timm_trunk(arch: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """timm's headless network with these tensors, in eval mode; every name but counters must be there."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(arch, num_classes=0)
    names = trunk_shapes(arch)
    counters = {name: torch.zeros(()) for name in names if name.endswith(COUNTER)}
    model.load_state_dict(counters | {name: tensors[name] for name in names if name in tensors}, assign=True)
    return model.eval()


def compare(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[Agreement, ...]:
    """Stage by stage, those that both have; a stage of another shape disagrees without a number."""
    rows = []
    for stage in (stage for stage in a if stage in b):
        x, y = a[stage].double().flatten(), b[stage].double().flatten()
        if x.shape != y.shape:
            rows.append(Agreement(stage=stage, max_abs=float("inf"), largest=float(x.abs().max()), cosine=0.0))
            continue
        norm = float(x.norm() * y.norm())
        cosine = float(x @ y) / norm if norm else float(bool(x.equal(y)))
        worst = float(torch.nan_to_num((x - y).abs(), nan=float("inf")).max())
        rows.append(Agreement(stage=stage, max_abs=worst, largest=float(x.abs().max()), cosine=cosine))
    return tuple(rows)


def doubts(loaded: Loaded) -> tuple[str, ...]:
    """What a careful user should know before trusting the file: suspicions, unknown tensors, an unknown or other input."""
    fed = loaded.convention
    lines = list(suspicions(loaded.tensors, loaded.outputs))
    if loaded.recognised.unknown:
        lines.append(
            f"{len(loaded.recognised.unknown)} tensors are unknown, e.g. {loaded.recognised.unknown[0]}; they are left out"
        )
    if fed.stride_in != "3x3" or fed.order != "RGB":
        lines.append(f"input {fed.order}, mean and std {fed.mean_std}, stride in the {fed.stride_in} convolution: {fed.why}")
    return tuple(lines)


def twin_tensors(loaded: Loaded) -> dict[str, Tensor]:
    """The other encoder's tensors under our names; {} if the file has one encoder."""
    known = loaded.recognised
    other: Encoder = "key" if known.encoder == "query" else "query"
    if not known.layout.twin:
        return {}
    tensors = loaded.checkpoint.tensors
    wrapper = wrapper_of(tensors)
    table = spellings(known.layout, known.arch, other)
    return {ours: tensors[wrapper + name] for name, ours in table.items() if wrapper + name in tensors}


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision and double as float32: the arithmetic is one."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _has_twin(checkpoint: Checkpoint) -> bool:
    return bool(recognise(checkpoint.path, checkpoint.tensors).layout.twin)
