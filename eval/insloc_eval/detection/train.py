"""Fine-tune a detector: steps until the end or an intermediate one, saved now and then and when stopped.

Norms see the whole batch, as detectron2's synchronised ones do: on one device by themselves, under torchrun by SyncBatchNorm.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from insloc_eval.detection.batches import Batch, batches_of, trainable
from insloc_eval.detection.data import Sample
from insloc_eval.detection.resume import restore_training, save_training
from insloc_eval.detection.schedule import make_optimizer, precise_norms, rate_at
from insloc_eval.protocols.detection import Detection
from insloc_hub.data.loader import prefetch
from insloc_hub.errors import BadRun, NotFinite
from insloc_hub.interrupts import interrupts
from insloc_hub.parallel import distributed
from insloc_hub.progress import Progress, track
from insloc_hub.shapes import Float

LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
SAVE_EVERY_S = 300.0
SHOWN = 20  # steps that the losses on the screen are means of
DRAW_STREAM = 2  # apart from the batches' streams


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLog:
    """How far a call of `train` came."""

    step: int
    finished: bool
    """Whether all steps are done and the norms' statistics are final."""
    interrupted: bool
    out_of_time: bool
    names: tuple[str, ...]
    curve: Float[Tensor, "step losses"]
    """float64, each step's losses in the order of `names`."""


def train(
    detector: nn.Module,
    samples: Sequence[Sample],
    protocol: Detection,
    *,
    seed: int,
    folder: Path,
    identity: str,
    precision: str = "fp32",
    until: int | None = None,
    deadline: float = math.inf,
) -> TrainLog:
    """Train `detector` in place, on its device, from where FOLDER stands to step `until` (the last one by default).

    A later call with a later `until` goes on, to the same bits as one call on a CPU. `identity` names model, protocol, data
    and seed: a folder of another is refused. Ctrl-C saves and returns, and so does the first step behind `deadline`, on
    time.monotonic()'s clock. BadRun, BadImage; NotFinite: what was saved is kept.
    """
    check_processes(detector, protocol)
    run = _Run(detector, trainable(samples), protocol, seed, precision)
    run.resume(folder, identity)
    stop = min(protocol.steps, protocol.steps if until is None else until)
    saved, interrupted, out_of_time = time.monotonic(), False, False
    total, done = stop * protocol.batch, run.step * protocol.batch
    with interrupts() as interrupt, track("train detector", max(total, done), "images", done=done) as progress:
        batches = prefetch(run.make, run.step, max(stop, run.step))
        for batch in batches:
            run.take(batch, progress)
            interrupted = distributed.any_of(interrupt(), run.device)
            out_of_time = deadline < math.inf and distributed.any_of(time.monotonic() >= deadline, run.device)
            if interrupted or out_of_time:
                break
            if distributed.any_of(time.monotonic() - saved > SAVE_EVERY_S, run.device):
                run.save(folder, identity)
                saved = time.monotonic()
        batches.close()
        if run.step == protocol.steps and not run.finished and not (interrupted or out_of_time):
            run.finish()
    run.save(folder, identity)
    return TrainLog(
        step=run.step,
        finished=run.finished,
        interrupted=interrupted,
        out_of_time=out_of_time,
        names=run.names,
        curve=torch.stack(run.curve) if run.curve else torch.zeros(0, len(run.names), dtype=torch.float64),
    )


def check_processes(detector: nn.Module, protocol: Detection) -> None:
    """Under torchrun: share the norms' statistics. BadRun: the batch can't be split, or there is no shared norm on CPUs."""
    count = distributed.world()
    if count == 1:
        return
    if protocol.batch % count:
        raise BadRun(f"a batch of {protocol.batch} can't be split over {count} processes; start fewer, or give --batch-size")
    if next(detector.parameters()).device.type != "cuda":
        raise BadRun(
            "torch has no synchronised norms on CPUs, so a detector trains there in one process: start without torchrun"
        )
    convert_sync_batchnorm(detector)


class _Run:
    """What training changes, and the step that changes it."""

    def __init__(self, detector: nn.Module, samples: list[Sample], protocol: Detection, seed: int, precision: str) -> None:
        self.detector, self.protocol, self.seed = detector, protocol, seed
        self.device = next(detector.parameters()).device
        self.optimizer = make_optimizer(detector, protocol)
        self.names = LOSSES if protocol.mask else LOSSES[:-1]
        self.curve: list[Tensor] = []
        self.finished = False
        self.make = batches_of(samples, protocol, seed, protocol.steps + protocol.precise_bn_batches)
        self.low = precision == "bf16"
        self.shown: deque[Tensor] = deque(maxlen=SHOWN)

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.curve)

    def resume(self, folder: Path, identity: str) -> None:
        """From what FOLDER has, if anything."""
        found = restore_training(folder, identity, self.detector, self.optimizer)
        if found is not None:
            self.curve, self.finished = list(found[0]), found[1]

    def save(self, folder: Path, identity: str) -> None:
        """Where it stands."""
        curve = torch.stack(self.curve) if self.curve else torch.zeros(0, len(self.names), dtype=torch.float64)
        save_training(folder, identity, self.detector, self.optimizer, curve, self.finished)

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Losses by name, with the draws of this step."""
        batch = batch.to(self.device)
        low = torch.autocast(self.device.type, torch.bfloat16, enabled=self.low)
        with drawn_from(self.seed, step, self.device), low:
            losses: dict[str, Tensor] = self.detector(batch.images, batch.targets)
        return losses

    def take(self, batch: Batch, progress: Progress) -> None:
        """One optimiser step. NotFinite, before anything is changed by it."""
        self.detector.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.protocol, self.step)
        losses = self.forward(batch, self.step)
        row = distributed.mean(torch.stack([losses[name].detach().double() for name in self.names])).cpu()
        self.check_finite(row)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([losses[name] for name in self.names]).sum().backward()  # type: ignore[no-untyped-call]
        distributed.mean_gradients(self.detector.parameters())
        self.optimizer.step()
        self.curve.append(row)
        self.shown.append(row)
        means = torch.stack(list(self.shown)).mean(dim=0).tolist()
        note = ", ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in zip(self.names, means, strict=True))
        progress.advance(self.protocol.batch, note)

    def check_finite(self, row: Float[Tensor, " losses"]) -> None:
        """NotFinite: which loss, and what to turn."""
        for name, value in zip(self.names, row.tolist(), strict=True):
            if not math.isfinite(value):
                raise NotFinite(
                    f"{name} is {value} at step {self.step} of the detector's training. What was saved before is kept. Lower "
                    f"the learning rate (now {rate_at(self.protocol, self.step):g}): --batch-size scales it down, too"
                )

    def finish(self) -> None:
        """The norms' statistics, from the batches behind the last step."""
        self.detector.train()
        first = self.protocol.steps
        steps = range(first, first + self.protocol.precise_bn_batches)
        if steps:
            batches = prefetch(self.make, steps.start, steps.stop)
            with track("norm statistics", len(steps), "batches") as progress:
                precise_norms(self.detector, self.passes(batches, first, progress))
        self.finished = True

    def passes(self, batches: Iterator[Batch], first: int, progress: Progress) -> Iterator[Callable[[], object]]:
        """One forward pass a batch, to be called."""
        for step, batch in enumerate(batches, first):
            yield partial(self.forward, batch, step)
            progress.advance()


@contextmanager
def drawn_from(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """While inside, torch's global generators (which anchors, which regions, dropout) are those of this step and process."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        words = np.random.SeedSequence([seed, DRAW_STREAM, step, distributed.rank()]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)
        yield
