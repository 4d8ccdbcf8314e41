"""The object box of each image of two halves: annotations matched to images, clipped, one box an image, all drops counted.

An annotation belongs to the image whose path ends in its name (suffixes aside). Several boxes of an image: the largest
is taken. Images without a usable box leave the halves; what is taken is in the split's fingerprint.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from insloc_hub.data.annotations import Annotations, Box, find_annotations, read_annotations, without_suffix
from insloc_hub.data.decode import upright_size
from insloc_hub.data.folder import ImageSet, Sample, sample_bytes
from insloc_hub.errors import BadData, BadImage

READERS = 2  # threads


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectBox:
    """The box of an image's object, clipped to the image."""

    box: Box
    """XYXY in pixels of the upright image."""
    size_wh: tuple[int, int]
    """Of that image."""

    @property
    def scaled(self) -> Box:
        """In shares of width and height."""
        w, h = self.size_wh
        x1, y1, x2, y2 = self.box
        return x1 / w, y1 / h, x2 / w, y2 / h

    @property
    def share(self) -> float:
        """Of the image's area."""
        x1, y1, x2, y2 = self.scaled
        return (x2 - x1) * (y2 - y1)

    @property
    def whole(self) -> bool:
        """Whether it is the whole image, to half a pixel at each edge: no place to find."""
        w, h = self.size_wh
        x1, y1, x2, y2 = self.box
        return max(x1, y1, w - x2, h - y2) <= 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectBoxes:
    """Boxes by image key, half by half."""

    train: Mapping[str, ObjectBox]
    test: Mapping[str, ObjectBox]
    counts: dict[str, int] = field(default_factory=dict)

    def facts(self, half: str, keys: list[str]) -> list[list[object]]:
        """What a fingerprint needs."""
        boxes = self.train if half == "train" else self.test
        return [[key, boxes[key].box] for key in keys]


def object_boxes(data: Path, train: ImageSet, test: ImageSet, own_files: bool) -> ObjectBoxes:
    """One box for each image that has a usable one. BadData: no annotations, malformed ones, or none for a half.

    `own_files`: each half takes the files that name it (instances_train2017.json), where there are such.
    """
    sources = find_annotations(data)
    kind = next(iter(sources.values()))
    halves = {"train": train, "val": test}
    files = {half: _files_of(list(sources), half if own_files else "") for half in halves}
    counts: Counter[str] = Counter()
    boxes: dict[str, dict[str, ObjectBox]] = {}
    read: dict[tuple[Path, ...], Annotations] = {}
    unclaimed: dict[tuple[Path, ...], set[str]] = {}
    for half, images in halves.items():
        paths = tuple(files[half])
        if paths not in read:
            read[paths] = read_annotations(data, files[half], kind)
            unclaimed[paths] = set(read[paths].boxes)
            counts.update({f"boxes_dropped_{rule}": n for rule, n in read[paths].dropped.items()})
        claimed = match(paths[0], read[paths], images.samples)
        unclaimed[paths] -= set(claimed.values())
        boxes[half] = _usable(read[paths], claimed, images.samples, counts)
        if not boxes[half]:
            raise BadData(paths[0], f"has no usable box for any of the {len(images)} images of {images.root.name}")
        counts[f"{'test' if half == 'val' else half}_images_without_box"] += len(images) - len(boxes[half])
    for paths, names in unclaimed.items():
        counts["boxes_dropped_image_not_here"] += sum(len(read[paths].boxes[name]) for name in names)
    return ObjectBoxes(train=boxes["train"], test=boxes["val"], counts={k: n for k, n in sorted(counts.items()) if n})


def match(path: Path, annotations: Annotations, samples: tuple[Sample, ...]) -> dict[str, str]:
    """Image key -> the annotation whose name its path ends in. BadData: two images end in one name."""
    claimed: dict[str, str] = {}
    owner: dict[str, str] = {}
    for sample in samples:
        parts = without_suffix(sample.key).split("/")
        name = next((n for i in range(len(parts)) if (n := "/".join(parts[i:])) in annotations.boxes), None)
        if name is None:
            continue
        if name in owner:
            raise BadData(path, f"{name!r} could be {owner[name]} or {sample.key}; write the folder into the name")
        claimed[sample.key], owner[name] = name, sample.key
    return claimed


def _files_of(paths: list[Path], half: str) -> list[Path]:
    """The files that name a half (instances_train2017.json), or all where none does."""
    return [path for path in paths if half in path.stem.removeprefix("instances_")] or paths


def _usable(
    annotations: Annotations, claimed: dict[str, str], samples: tuple[Sample, ...], counts: Counter[str]
) -> dict[str, ObjectBox]:
    """The largest box of each image, clipped to it."""
    wanted = [sample for sample in samples if annotations.boxes.get(claimed.get(sample.key, ""))]
    found: dict[str, ObjectBox] = {}
    with ThreadPoolExecutor(READERS) as threads:
        for sample, size in zip(wanted, threads.map(_size, wanted), strict=True):
            rows = annotations.boxes[claimed[sample.key]]
            if size is None:
                counts["boxes_dropped_image_unreadable"] += len(rows)
                continue
            inside = [box for row in rows if (box := _clipped(row, size)) is not None]
            counts["boxes_dropped_outside"] += len(rows) - len(inside)
            if inside:
                counts["boxes_dropped_not_the_largest"] += len(inside) - 1
                found[sample.key] = ObjectBox(box=max(inside, key=_area), size_wh=size)
    return found


def _size(sample: Sample) -> tuple[int, int] | None:
    try:
        return upright_size(sample_bytes(sample))
    except BadImage:
        return None


def _clipped(box: Box, size_wh: tuple[int, int]) -> Box | None:
    w, h = size_wh
    x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(w)), min(box[3], float(h))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
