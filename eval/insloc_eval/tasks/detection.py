"""detection/*: fine-tune a detector from the trunk, and score what it finds in the test pictures.

Training stops at each quarter of its steps to be scored (with the norms' running statistics; the last score has precise
ones), so that a record also says how fast it got there. A killed run goes on from its folder, RESULTS/detection/<id>/.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from insloc_eval.detection.build import build_detector
from insloc_eval.detection.coco import match_coco
from insloc_eval.detection.data import Detections, DetectionSplit, Sample
from insloc_eval.detection.draw import write_sheet
from insloc_eval.detection.network.parts import read_parts
from insloc_eval.detection.precision import Matches
from insloc_eval.detection.predict import predict
from insloc_eval.detection.scores import UNIT, by_class, sampled_values, stored, values
from insloc_eval.detection.train import TrainLog, train
from insloc_eval.detection.voc import match_voc
from insloc_eval.job import Job, NotApplicable, OutOfTime
from insloc_eval.protocols import Detection
from insloc_eval.set_metrics import set_metric
from insloc_eval.store import Judged, outcomes_of, sheet_path
from insloc_hub.errors import BadCheckpoint, BadRun, InslocError
from insloc_hub.files import write_json
from insloc_hub.progress import say, track

MARKS = 4  # looked at after each of as many equal parts of the training
MARKED = ("AP", "AP50", "mask_AP", "mask_AP50")
CURVE_POINTS = 100  # of each loss in the record; a point is the mean of its steps
ONE_TUNING = "One fine-tuning seed a record: how much another order of the images would change it is in no interval."


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The scores at intermediate steps, in a file beside the training."""

    path: Path
    identity: str

    def read(self) -> dict[int, dict[str, float]]:
        """Step -> metric -> value. BadRun: damaged, or of another run."""
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["identity"] != self.identity:
                raise BadRun(f"{self.path} belongs to another run. Delete {self.path.parent}, or choose another --out")
            return {int(step): row for step, row in content["marks"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadRun(f"{self.path}: damaged ({error}). Delete {self.path.parent} and start again") from None

    def write(self, marks: dict[int, dict[str, float]]) -> None:
        """CannotWrite."""
        write_json(self.path, {"identity": self.identity, "marks": {str(step): row for step, row in marks.items()}})


def run(job: Job) -> Judged:
    """AP with intervals over images, AP by class, losses, scores along the way. NotApplicable, OutOfTime, BadRun, BadImage."""
    protocol, split = job.protocol, job.split
    assert isinstance(protocol, Detection) and isinstance(split, DetectionSplit)
    detector = _build(job, protocol, len(split.classes))
    log, marks = _train(job, detector, protocol, split)
    job.check_time()
    found = _answers(job, detector, protocol, split.ask, "test")
    matches = match(protocol, split.ask, found, len(split.classes))
    say(f"{job.shown}: intervals of AP by resampling {len(split.ask)} images")
    metrics = {n: set_metric([one], len(split.ask), UNIT) for n, one in sampled_values(matches, len(split.ask)).items()}
    marks[protocol.steps] = {name: metrics[name].value for name in MARKED if name in metrics}
    result = job.result(
        metrics=metrics,
        rows={},
        counts={"train_steps": log.step, "detections": sum(len(one.boxes) for one in found)},
        notes=(ONE_TUNING,),
        by_class=by_class(matches, split.classes),
        curves={**_scores_by_step(marks), **_losses(log)},
    )
    write_sheet(sheet_path(job.out, protocol.family, job.id), split.ask, found, split.classes)
    return Judged(result=result, outcomes=outcomes_of(tuple(sample.key for sample in split.ask), **stored(matches)))


def match(protocol: Detection, samples: Sequence[Sample], found: Sequence[Detections], classes: int) -> dict[str, Matches]:
    """Which detection hits which object, as the protocol's metric says."""
    if protocol.metric == "voc":
        rounded, exact = (match_voc(samples, found, classes, text=text) for text in (True, False))
        return {"bbox:all": rounded, "bbox:unrounded": exact}
    kinds = ("bbox", "segm") if protocol.mask else ("bbox",)
    most = protocol.most_detections
    return {f"{kind}:{area}": one for kind in kinds for area, one in match_coco(samples, found, classes, kind, most).items()}


def _build(job: Job, protocol: Detection, classes: int) -> nn.Module:
    """The detector on the job's device, from the trunk and what else is initialised. NotApplicable: no such network."""
    parts = None if protocol.init_parts == "trunk" else read_parts(job.spec)
    try:
        detector: nn.Module = build_detector(protocol, job.extractor.model, classes=classes, seed=job.seed, parts=parts)
    except BadCheckpoint:
        raise
    except InslocError as error:
        raise NotApplicable(str(error)) from None
    return detector.to(job.extractor.device)


def _train(
    job: Job, detector: nn.Module, protocol: Detection, split: DetectionSplit
) -> tuple[TrainLog, dict[int, dict[str, float]]]:
    """To the end, scored at each mark. KeyboardInterrupt, OutOfTime: stopped and saved."""
    folder = job.out / protocol.family / job.id
    kept = Marks(path=folder / "marks.json", identity=job.id)
    marks = kept.read()
    for part in range(1, MARKS + 1):
        step = protocol.steps * part // MARKS
        log = train(
            detector,
            split.learn,
            protocol,
            seed=job.seed,
            folder=folder,
            identity=job.id,
            precision=job.extractor.precision,
            until=step,
            deadline=job.deadline,
        )
        if log.interrupted:
            raise KeyboardInterrupt
        if log.out_of_time:
            raise OutOfTime
        if step < protocol.steps and step not in marks and log.step == step:
            job.check_time()
            found = _answers(job, detector, protocol, split.ask, f"test at step {step}")
            row = values(match(protocol, split.ask, found, len(split.classes)))
            marks[step] = {name: row[name] for name in MARKED if name in row}
            kept.write(marks)
            say(f"{job.shown}: step {step} of {protocol.steps}: " + ", ".join(f"{n} {x:.2f}" for n, x in marks[step].items()))
    return log, marks


def _answers(job: Job, detector: nn.Module, protocol: Detection, samples: Sequence[Sample], label: str) -> list[Detections]:
    with track(f"{job.shown}: {label}", len(samples)) as progress:
        return predict(detector, samples, protocol, progress, job.extractor.precision)


def _scores_by_step(marks: Mapping[int, Mapping[str, float]]) -> dict[str, list[list[float]]]:
    names = [name for name in MARKED if any(name in row for row in marks.values())]
    return {name: [[float(step), row[name]] for step, row in sorted(marks.items()) if name in row] for name in names}


def _losses(log: TrainLog) -> dict[str, list[list[float]]]:
    """Each loss as at most CURVE_POINTS means, at the step behind each."""
    pieces = torch.arange(len(log.curve)).chunk(min(CURVE_POINTS, max(len(log.curve), 1)))
    return {
        name: [[float(piece[-1]) + 1, float(log.curve[piece, column].mean())] for piece in pieces]
        for column, name in enumerate(log.names)
    }
