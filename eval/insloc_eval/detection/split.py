"""A data folder -> the two halves of a detection protocol: which reader, which share, which limits (contracts.md 9)."""

from collections import Counter
from pathlib import Path

from insloc_eval.detection.data import DetectionSplit, Sample
from insloc_eval.detection.objects import Use
from insloc_eval.detection.read_coco import read_coco
from insloc_eval.detection.read_tin import read_tin
from insloc_eval.detection.read_voc import devkits, read_voc
from insloc_eval.protocols.detection import Detection
from insloc_hub.data.annotations import LISTED
from insloc_hub.data.folder import ImageSet
from insloc_hub.errors import BadData

FEWEST_TEST = 2  # pictures: an interval needs a variance


def load_detection_split(
    data: Path, protocol: Detection, *, train_limit: int | None = None, test_limit: int | None = None
) -> DetectionSplit:
    """The pictures that `protocol` trains on and asks, from COCO files, VOC devkits, or boxes.json. BadData.

    Training pictures without an object are dropped and counted; then the protocol's first share by id; then the limits.
    """
    counts: Counter[str] = Counter()
    uses = {half: Use(half=half, masks=protocol.mask, counts=counts) for half in ("train", "test")}
    samples, classes, how = _read(data, protocol, uses)
    learn = [sample for sample in samples["train"] if len(sample.boxes)]
    counts["train_images_without_objects"] += len(samples["train"]) - len(learn)
    counts["test_images_without_objects"] += sum(not len(sample.boxes) for sample in samples["test"])
    if protocol.train_share < 1 and not protocol.mosaic:  # mosaics are cut where they are made
        learn = learn[: int(protocol.train_share * len(learn))]
    learn, ask = learn[:train_limit], samples["test"][:test_limit]
    if not learn:
        raise BadData(data, "no training picture is left with a usable object: an empty split")
    if len(ask) < FEWEST_TEST or not any(len(sample.boxes) for sample in ask):
        raise BadData(data, f"{len(ask)} test pictures are left, with no object to find or fewer than {FEWEST_TEST}")
    counts.update(train_images=len(learn), train_objects=sum(len(s.boxes) for s in learn))
    counts.update(test_images=len(ask), test_objects=sum(len(s.boxes) for s in ask))
    empty = ImageSet(root=data, samples=())
    return DetectionSplit(
        name=data.resolve().name,
        how=how,
        train=empty,
        test=empty,
        median_short_px=_median_short(ask),
        counts={name: n for name, n in sorted(counts.items()) if n},
        notes=_untaught(learn, ask, classes),
        learn=tuple(learn),
        ask=tuple(ask),
        classes=classes,
    )


def _read(data: Path, protocol: Detection, uses: dict[str, Use]) -> tuple[dict[str, list[Sample]], tuple[str, ...], str]:
    listed = (data / LISTED).is_file()
    coco = any((data / "annotations").glob("instances_*.json"))
    if protocol.mosaic and not listed:
        raise BadData(data, f"{protocol.title} composes images with one box each: it needs {LISTED}")
    if protocol.mask and not coco:
        raise BadData(data, f"{protocol.title} learns masks: it needs annotations/instances_*.json with segmentations")
    if coco and not protocol.mosaic:
        halves = {half: read_coco(data, half, use) for half, use in uses.items()}
        if halves["train"][1] != halves["test"][1]:
            raise BadData(data / "annotations", "the two halves have different categories; a detector can't know both")
        return {half: found for half, (found, _) in halves.items()}, halves["train"][1], "instances_train and instances_val"
    if listed:
        samples, classes = read_tin(data, uses, protocol.mosaic, protocol.train_share)
        return (
            samples,
            classes,
            "train/ and val/" + (f", alone and in mosaics of {protocol.mosaic} x {protocol.mosaic}" if protocol.mosaic else ""),
        )
    if devkits(data):
        samples, classes = read_voc(data, uses)
        return samples, classes, "trainval and test of ImageSets/Main"
    raise BadData(data, f"has no boxes; detection needs annotations/instances_*.json (COCO), a VOC devkit, or {LISTED}")


def _untaught(learn: list[Sample], ask: list[Sample], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Classes that are asked but not in any training picture: their AP is 0 whatever was learnt."""
    known = {label for sample in learn for label in sample.labels.tolist()}
    strange = sorted({label for sample in ask for label in sample.labels.tolist()} - known)
    if not strange:
        return ()
    named = ", ".join(classes[label] for label in strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
    return (f"{len(strange)} of the tested classes have no training object, so that their AP can only be 0: {named}",)


def _median_short(samples: list[Sample]) -> float:
    sides = sorted(min(sample.size_wh) for sample in samples)
    return float(sides[len(sides) // 2])
