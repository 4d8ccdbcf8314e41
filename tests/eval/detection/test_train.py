"""Training a detector: it learns four pictures by heart; cut off and gone on with, it is the same to the bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from insloc_eval.detection import train as module
from insloc_eval.detection.batches import pixels_of
from insloc_eval.detection.build import build_detector
from insloc_eval.detection.data import Detections, Sample
from insloc_eval.detection.predict import predict
from insloc_eval.detection.train import TrainLog, train
from insloc_eval.protocols.detection import Detection
from insloc_hub.encoders.backbone import build_trunk
from insloc_hub.errors import BadRun, NotFinite

Make = Callable[..., Detection]
Pictures = Callable[..., list[Sample]]


def run(
    protocol: Detection, trunk: nn.Module, samples: list[Sample], place: Path, until: int | None = None
) -> tuple[nn.Module, TrainLog]:
    detector = build_detector(protocol, trunk, classes=2, seed=0)
    return detector, train(detector, samples, protocol, seed=0, folder=place, identity="a", until=until)


def mean_ap50(found: list[Detections], samples: list[Sample], masks: bool = False) -> float:
    """Area under precision over recall of each class at IoU .5, slowly; for these tests only."""
    scores = []
    for kind in range(2):
        rows = []
        for answer, sample in zip(found, samples, strict=True):
            taken: set[int] = set()
            for i in answer.scores.argsort(descending=True).tolist():
                if answer.labels[i] != kind:
                    continue
                overlaps = overlap(answer, i, sample, masks)
                overlaps[sample.labels != kind] = 0
                best = int(overlaps.argmax())
                hit = bool(overlaps[best] >= 0.5) and best not in taken
                taken |= {best} if hit else set()
                rows.append((answer.scores[i].item(), hit))
        truths = sum(int((sample.labels == kind).sum()) for sample in samples)
        area = hits = 0.0
        for rank, (_, hit) in enumerate(sorted(rows, reverse=True), 1):
            hits += hit
            area += hit * hits / rank / truths
        scores.append(area)
    return sum(scores) / 2


def overlap(answer: Detections, i: int, sample: Sample, masks: bool) -> Tensor:
    if not masks:
        return box_iou(answer.boxes[i : i + 1], sample.boxes)[0]
    assert answer.masks is not None and sample.masks is not None
    mine = pixels_of(answer.masks[i], sample.size_wh).bool()
    theirs = [pixels_of(one, sample.size_wh).bool() for one in sample.masks]
    return torch.stack([(mine & one).sum() / (mine | one).sum() for one in theirs])


def test_a_detector_learns_four_pictures_nearly_by_heart(
    tiny: Make, trunk: nn.Module, pictures: Pictures, tmp_path: Path
) -> None:
    samples = pictures(4)
    protocol = tiny(steps=45, lr=0.02, lr_drops=(36,), warmup_steps=8, precise_bn_batches=4, roi_batch=8)
    detector, log = run(protocol, trunk, samples, tmp_path / "run")
    assert log.finished and log.step == 45 and log.curve.shape == (45, 4)
    assert log.curve[-5:].sum(dim=1).mean() < 0.6 * log.curve[:5].sum(dim=1).mean()
    assert mean_ap50(predict(detector, samples, protocol, None), samples) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "steps", "lr"), [("c4", 400, 0.05), ("fpn", 200, 0.02)])
def test_a_detector_learns_boxes_and_masks_of_four_pictures_by_heart(
    tiny: Make, pictures: Pictures, tmp_path: Path, variant: str, steps: int, lr: float
) -> None:
    samples = pictures(4)
    changes = {"batch": 4, "lr": lr, "warmup_steps": steps // 10, "steps": steps, "lr_drops": (steps * 17 // 20,)}
    protocol = tiny(variant, mask=True, precise_bn_batches=10, roi_batch=32, **changes)
    detector, _ = run(protocol, build_trunk("test_resnet", seed=0), samples, tmp_path / "run")
    found = predict(detector, samples, protocol, None)
    assert mean_ap50(found, samples) > 0.9 and mean_ap50(found, samples, masks=True) > 0.9


def test_a_run_cut_off_and_gone_on_with_is_the_same_to_the_bit(
    tiny: Make, trunk: nn.Module, pictures: Pictures, tmp_path: Path
) -> None:
    protocol = tiny("c4", mask=True, steps=5, lr_drops=(4,), warmup_steps=2)
    samples = pictures(5)
    whole, log = run(protocol, trunk, samples, tmp_path / "whole")
    _, part = run(protocol, trunk, samples, tmp_path / "parts", until=2)
    assert (part.step, part.finished) == (2, False)
    resumed, rest = run(protocol, trunk, samples, tmp_path / "parts")
    assert rest.finished and torch.equal(rest.curve, log.curve)
    assert [n for n, t in whole.state_dict().items() if not torch.equal(t, resumed.state_dict()[n])] == []


def test_a_run_stopped_by_a_signal_is_saved_and_goes_on(
    tiny: Make, trunk: nn.Module, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = tiny("c4", steps=3, lr_drops=(), precise_bn_batches=0)
    samples = pictures(2)
    whole, _ = run(protocol, trunk, samples, tmp_path / "whole")
    asked = iter([False, True])
    monkeypatch.setattr(module, "interrupts", lambda: Signals(asked))
    _, cut = run(protocol, trunk, samples, tmp_path / "cut")
    assert cut.interrupted and not cut.finished and cut.step == 2
    monkeypatch.undo()
    rest, log = run(protocol, trunk, samples, tmp_path / "cut")
    assert log.finished and all(torch.equal(t, rest.state_dict()[n]) for n, t in whole.state_dict().items())


class Signals:
    """Stands for `interrupts`: a signal arrives when the list says so."""

    def __init__(self, asked: object) -> None:
        self.asked = asked

    def __enter__(self) -> Callable[[], bool]:
        return lambda: next(self.asked, False)  # type: ignore[call-overload, no-any-return]

    def __exit__(self, *_: object) -> None:
        return None


def test_a_folder_of_another_run_or_a_damaged_one_is_refused(
    tiny: Make, trunk: nn.Module, pictures: Pictures, tmp_path: Path
) -> None:
    protocol = tiny("c4", steps=2, lr_drops=(), precise_bn_batches=0)
    detector, _ = run(protocol, trunk, pictures(2), tmp_path / "run", until=1)
    with pytest.raises(BadRun, match="belongs to another model, protocol, data or seed"):
        train(detector, pictures(2), protocol, seed=0, folder=tmp_path / "run", identity="b")
    saved = tmp_path / "run" / "detector.pt"
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(BadRun, match=r"detector\.pt: cut short or damaged"):
        train(detector, pictures(2), protocol, seed=0, folder=tmp_path / "run", identity="a")


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(
    tiny: Make, trunk: nn.Module, pictures: Pictures, tmp_path: Path
) -> None:
    protocol = tiny("c4", steps=2, lr_drops=())
    detector = build_detector(protocol, trunk, classes=2, seed=0)
    nn.init.constant_(detector.roi_heads.box_predictor.cls_score.bias, float("nan"))
    kept = {name: p.detach().clone() for name, p in detector.named_parameters()}
    with pytest.raises(NotFinite, match=r"loss_classifier is nan at step 0 .* Lower the learning rate"):
        train(detector, pictures(2), protocol, seed=0, folder=tmp_path / "run", identity="a")
    assert all(torch.equal(p.nan_to_num(), kept[name].nan_to_num()) for name, p in detector.named_parameters())


FAMILIES = (
    "resnet10t",
    "mobilenetv3_small_050",
    "efficientnet_b0",
    "regnetx_002",
    "convnext_atto",
    "densenet121",
    "dla46_c",
    "hrnet_w18_small",
    "res2net50_14w_8s",
    "vgg11_bn",
)


def takes_a_step(arch: str, protocol: Detection, samples: list[Sample], place: Path) -> None:
    detector = build_detector(protocol, build_trunk(arch, 0), classes=2, seed=0)
    log = train(detector, samples, protocol, seed=0, folder=place, identity=arch, until=1)
    assert log.step == 1 and bool(log.curve.isfinite().all())
    unmoved = [n for n, p in detector.named_parameters() if p.ndim > 1 and (p.grad is None or not p.grad.any())]
    assert unmoved == []


@pytest.mark.parametrize("arch", FAMILIES[1:4:2])
def test_two_families_take_a_training_step_as_fpn_detectors(tiny: Make, pictures: Pictures, tmp_path: Path, arch: str) -> None:
    takes_a_step(arch, replace(tiny(), warmup_steps=0), pictures(2), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("arch", FAMILIES)
def test_ten_families_take_a_training_step_as_fpn_detectors(tiny: Make, pictures: Pictures, tmp_path: Path, arch: str) -> None:
    takes_a_step(arch, replace(tiny(), warmup_steps=0), pictures(2), tmp_path / "run")
