"""A data folder -> a training and a test half, named and fingerprinted (contracts.md 9).

train/ + val/ folders are taken as they are; anything else is cut 80/20 by the hash of each key, class by class, so that
the same folder always gives the same halves on every machine. Nothing is decoded here but a few images for their size.
"""

import hashlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from insloc_eval.ask import FEWEST_TEST, HALVES, check_data
from insloc_eval.objects import ObjectBox, ObjectBoxes, object_boxes
from insloc_hub.data.folder import ImageSet, Sample, is_source, list_classes, list_images, read_sample
from insloc_hub.errors import BadData, BadImage
from insloc_hub.files import digest

TEST_SHARE = 0.2
SIZED = 31  # images decoded for the median short side: an odd number, and enough to tell 64 px from 500 px
NAMED = 3  # bad images that a note names


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Two disjoint halves of one data folder, with what was dropped on the way."""

    name: str
    how: str
    """Where the halves come from, for records."""
    train: ImageSet
    test: ImageSet
    median_short_px: float
    """Median short side of a few images, before any limit."""
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    boxes: ObjectBoxes | None = None
    """The object box of every image, where boxes were asked for."""

    @property
    def learned(self) -> int:
        """Training images."""
        return len(self.train)

    @property
    def tested(self) -> int:
        """Test images."""
        return len(self.test)

    def fingerprint(self, training: bool) -> str:
        """Digest of the test images, and of the training images where they matter, with their boxes."""
        halves = {"train": self.train, "test": self.test} if training else {"test": self.test}
        images = [self.train.fingerprint() if training else None, self.test.fingerprint()]
        if self.boxes is None:
            return digest(images)
        return digest([images, *(self.boxes.facts(half, [s.key for s in one.samples]) for half, one in halves.items())])


def load_split(
    data: Path,
    *,
    labels: bool,
    boxes: bool = False,
    train_limit: int | None = None,
    test_limit: int | None = None,
    half: str = "",
) -> Split:
    """The halves of `data`. With `labels`, class folders are needed; without, any folder of images will do. BadData.

    With `boxes`, images without one are left out. The limits keep a subset, the same each time and even over the classes.
    `half`: A or B, that half of the test images of every class (contracts.md 10); it needs classes too.
    """
    check_data(data)
    whole = is_source(data / "train")
    labels = labels or bool(half)
    train, test, how = _two_folders(data, labels) if whole else _cut(data, labels)
    if half:
        test, how = replace(test, samples=halves_of(test.samples)[half]), f"{how}, half {half} of the test images"
    found = object_boxes(data, train, test, own_files=whole) if boxes else None
    if found is not None:
        train, test = _with_boxes(train, found.train), _with_boxes(test, found.test)
    median = median_short_side([*test.samples] or [*train.samples])
    train = replace(train, samples=limited(train.samples, train_limit))
    test = replace(test, samples=limited(test.samples, test_limit))
    counts, notes = _known_classes(train, test) if labels else ({}, ())
    if labels:
        labelled = {s.label for s in train.samples}
        test = replace(test, samples=tuple(s for s in test.samples if s.label in labelled))
    if len(test) < FEWEST_TEST:
        raise BadData(data, f"{len(test)} test images are left; at least {FEWEST_TEST} are needed")
    if labels and len({s.label for s in train.samples}) < 2:
        raise BadData(data, "the training images are all of one class; a classifier needs two")
    counts = {**counts, **(found.counts if found else {})}
    name = data.resolve().name
    return Split(name=name, how=how, train=train, test=test, median_short_px=median, counts=counts, notes=notes, boxes=found)


def halves_of(samples: tuple[Sample, ...]) -> dict[str, tuple[Sample, ...]]:
    """Half A and half B: the sorted keys of each class, even and odd in turn."""
    of_class: dict[int | None, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: s.key):
        of_class.setdefault(sample.label, []).append(sample)
    return {half: tuple(s for group in of_class.values() for s in group[start::2]) for start, half in enumerate(HALVES)}


def limited(samples: tuple[Sample, ...], limit: int | None) -> tuple[Sample, ...]:
    """At most `limit` samples in key order: first one of each class, then a second, ... each class by hash of the key."""
    if limit is None or limit >= len(samples):
        return samples
    return tuple(sorted(by_rank(samples)[:limit], key=lambda s: s.key))


def by_rank(samples: tuple[Sample, ...]) -> list[Sample]:
    """The first of each class, then the second, and so on, each class by hash of the key: even over classes up to any place."""
    ranked = sorted(((rank, key_hash(s.key), s) for g in _groups(samples).values() for rank, s in enumerate(g)), key=_first_two)
    return [sample for _, _, sample in ranked]


def held_out(keys: list[str], groups: list[object], share: float) -> list[bool]:
    """Which of `keys` are held out: `share` of each group by hash of the key, at least one of two or more.

    >>> held_out(["a", "b", "c"], [0, 0, 1], 0.1).count(True)
    1
    """
    of_group: dict[object, list[int]] = {}
    for position in sorted(range(len(keys)), key=lambda i: key_hash(keys[i])):
        of_group.setdefault(groups[position], []).append(position)
    chosen = set()
    for members in of_group.values():
        wanted = max(1, round(share * len(members))) if len(members) > 1 else 0
        chosen |= set(members[:wanted])
    return [position in chosen for position in range(len(keys))]


def median_short_side(samples: list[Sample]) -> float:
    """Median short side in pixels of a few of the images, chosen by hash. BadData: none of them can be read."""
    sides = []
    chosen = sorted(samples, key=lambda s: key_hash(s.key))[:SIZED]
    for sample in chosen:
        try:
            sides.append(min(read_sample(sample).shape[1:]))
        except BadImage:
            continue  # counted where features are computed
    if not sides:
        where = chosen[0].path if chosen else "data"
        raise BadData(where, f"none of {len(chosen)} images of this folder can be read")
    return float(statistics.median(sides))


def key_hash(key: str) -> str:
    """Hex sha256 of a key: an order that has nothing to do with names or dates."""
    return hashlib.sha256(key.encode()).hexdigest()


def unreadable(skipped: dict[str, str], half: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Count and note of the images of one half that could not be read."""
    if not skipped:
        return {}, ()
    named = "; ".join(f"{key} ({reason})" for key, reason in list(skipped.items())[:NAMED])
    more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    plural = "image" if len(skipped) == 1 else "images"
    return {f"{half}_unreadable": len(skipped)}, (f"{len(skipped)} unreadable {half} {plural} skipped: {named}{more}",)


def _two_folders(data: Path, labels: bool) -> tuple[ImageSet, ImageSet, str]:
    read_one = list_classes if labels else list_images
    train, test = read_one(data / "train"), read_one(data / "val")
    if labels:  # the training folder numbers the classes; one that it lacks gets no number
        number = {name: position for position, name in enumerate(train.classes)}
        own = [test.classes[s.label] if s.label is not None else "" for s in test.samples]
        samples = tuple(replace(s, label=number.get(name)) for s, name in zip(test.samples, own, strict=True))
        test = replace(test, samples=samples)
    return train, test, "train/ and val/"


def _with_boxes(images: ImageSet, boxes: Mapping[str, ObjectBox]) -> ImageSet:
    return replace(images, samples=tuple(s for s in images.samples if s.key in boxes))


def _cut(data: Path, labels: bool) -> tuple[ImageSet, ImageSet, str]:
    everything = list_classes(data) if labels else list_images(data)
    names = [s.key for s in everything.samples]
    away = held_out(names, [_group(s) for s in everything.samples], TEST_SHARE)
    test = tuple(s for s, out in zip(everything.samples, away, strict=True) if out)
    train = tuple(s for s, out in zip(everything.samples, away, strict=True) if not out)
    return replace(everything, samples=train), replace(everything, samples=test), "80/20 by hash of the key"


def _known_classes(train: ImageSet, test: ImageSet) -> tuple[dict[str, int], tuple[str, ...]]:
    """What labelled halves do not share."""
    counts, notes = {}, []
    learnt = {s.label for s in train.samples}
    strange = sorted({s.key.split("/")[0] for s in test.samples if s.label not in learnt})
    if strange:
        counts["test_without_training_class"] = sum(s.label not in learnt for s in test.samples)
        notes.append(f"test images of classes without training images are left out: {_listed(strange)}")
    tested = {s.label for s in test.samples}
    untested = [name for number, name in enumerate(train.classes) if number in learnt and number not in tested]
    if untested:
        counts["classes_without_test_image"] = len(untested)
        notes.append(f"classes without a test image: {_listed(untested)}")
    return counts, tuple(notes)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _group(sample: Sample) -> str:
    """A sample's first folder; in tars without folders its class."""
    if "/" not in sample.key:
        return "" if sample.label is None else str(sample.label)
    return sample.key.split("/")[0]


def _first_two(row: tuple[int, str, Sample]) -> tuple[int, str]:
    return row[:2]


def _groups(samples: tuple[Sample, ...]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: key_hash(s.key)):
        groups.setdefault(_group(sample), []).append(sample)
    return groups
