"""Run a record again and say whether it is reproduced: same weights, images, protocol and seeds, no cached feature.

Where any of these is another one there is nothing to verify, and that is said. The noise is the record's own: a re-run on
the same images should agree to rounding, so a difference of more than one standard error of the number is none of it.
"""

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from insloc_eval.ask import Ask, Tuning
from insloc_eval.networks import ORDINARY, load_network
from insloc_eval.protocols.detection import SCALED
from insloc_eval.run import jobs_of, judge, splits_of
from insloc_eval.stats import Z95
from insloc_eval.store import load_result
from insloc_hub.errors import BadData
from insloc_hub.records import Metric, Result

ROUNDING = 1e-9
MOST_ERRORS = 1.0  # standard errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """A record and what its re-run gave."""

    stored: Result
    again: Result
    errors: dict[str, float]
    """Metric -> difference of the two in standard errors of the stored one; infinite where one of them lacks it."""

    @property
    def reproduced(self) -> bool:
        """Whether no number differs by more than its noise."""
        return all(size <= MOST_ERRORS for size in self.errors.values())


def verify(path: Path, *, model: str | None = None, data: Path | None = None, device: str = "auto") -> Verification:
    """Re-run the record at `path`. `model`, `data`: where they are now, if not where the record's command found them.

    BadData: no record, or other weights, images or numbers of the protocol than the record's. InslocError.
    """
    stored = load_result(path)
    place = data or Path(_option(stored.command, "--data") or stored.data.name)
    if not place.exists():
        raise BadData(place, f"no such folder here; give the images of {stored.data.name!r} with --data")
    with tempfile.TemporaryDirectory(prefix="insloc-verify-") as scratch:
        ask = Ask(
            models=(model or stored.model.spec.removesuffix(ORDINARY),),
            tasks=(stored.protocol.removesuffix(SCALED),),
            data=place,
            out=Path(scratch) / "results",
            device=device,
            precision=stored.env.get("precision", "fp32"),
            seed=stored.eval_seed,
            train_limit=_number(_option(stored.command, "--train-limit")),
            test_limit=_number(_option(stored.command, "--test-limit")),
            cache=Path(scratch) / "features",
            half=_option(stored.command, "--half") or "",
            tuning=_tuning(stored),
        )
        ask.check()
        extractor = load_network(model or stored.model.spec, device, ask.precision)
        (job,) = jobs_of(stored.model.spec, extractor, ask, splits_of(ask), ask.models[0])
        if job.id != stored.id:
            raise BadData(path, f"can't be verified: {_what_differs(stored, job.result({}, {}, {}, ()))}")
        again = judge(job).result
    return Verification(stored=stored, again=again, errors=_errors(stored, again))


def sentence(found: Verification) -> str:
    """The verdict in words, with the number that differs most."""
    stored, again = found.stored, found.again
    if stored.not_applicable or again.not_applicable:
        same = bool(stored.not_applicable) and bool(again.not_applicable)
        return "reproduced: not applicable" if same else "differs by more than its noise: one of the two is not applicable"
    name = max(found.errors, key=lambda one: found.errors[one])
    if name not in again.metrics or name not in stored.metrics:
        return f"differs by more than its noise: only one of the two has {name}"
    values = f"{name} {stored.metrics[name].value:.6f}, again {again.metrics[name].value:.6f}"
    if all(size == 0 for size in found.errors.values()):
        return f"reproduced, digit for digit: {values}"
    size = f"{found.errors[name]:.2g} of its standard errors"
    return f"{'reproduced' if found.reproduced else 'differs by more than its noise'}: {values}, {size} apart"


def _errors(stored: Result, again: Result) -> dict[str, float]:
    if bool(stored.not_applicable) != bool(again.not_applicable):
        return {"not applicable": float("inf")}
    return {
        name: _size(stored.metrics[name], again.metrics[name])
        if name in stored.metrics and name in again.metrics
        else float("inf")
        for name in dict.fromkeys((*stored.metrics, *again.metrics))
    }


def _size(stored: Metric, again: Metric) -> float:
    gap = abs(stored.value - again.value)
    if gap <= ROUNDING:
        return 0.0
    error = (stored.high - stored.low) / 2 / Z95
    return gap / error if error > 0 else float("inf")


def _what_differs(stored: Result, now: Result) -> str:
    parts = [
        ("the weights", stored.model.sha256, now.model.sha256),
        ("the images", stored.data.fingerprint, now.data.fingerprint),
        (f"the numbers of {stored.protocol}", stored.protocol_hash, now.protocol_hash),
        ("the pretraining seed", str(stored.pretrain_seed), str(now.pretrain_seed)),
        ("the split", f"{stored.data.name}, {stored.data.split}", f"{now.data.name}, {now.data.split}"),
        ("the architecture", stored.model.arch, now.model.arch),
    ]
    return "; ".join(f"{what} differ ({old[:40]} then, {new[:40]} now)" for what, old, new in parts if old != new)


def _option(command: str, name: str) -> str | None:
    words = shlex.split(command)
    return words[words.index(name) + 1] if name in words[:-1] else None


def _tuning(stored: Result) -> Tuning:
    """How the record's one detector was asked for."""
    if not stored.settings:
        return Tuning()
    said = stored.settings
    norm = "on" if said["extra_norm"] else "off"
    return Tuning(init_parts=said["init_parts"], extra_norm=norm, batch_size=said["batch"], steps=said["steps"])


def _number(text: str | None) -> int | None:
    return int(text) if text is not None else None
