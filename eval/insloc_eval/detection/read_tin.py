"""Images with one box each (boxes.json, tiny-imagenet's) -> pictures for detectors: alone, and in mosaics of 3 x 3 [ours].

Ids follow an order that is even over the classes: the first of each class, then the second, each class by the hash of its
keys. So a share of the ids is a nested subset with all classes, and mosaics are nine ids in a row: nested too.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from insloc_eval.detection.data import Sample
from insloc_eval.detection.objects import Annotated, Use, usable
from insloc_eval.objects import ObjectBox
from insloc_eval.sets import by_rank, load_split
from insloc_hub.data import folder
from insloc_hub.errors import BadData

TILE = 64  # px, tiny-imagenet's own
SLIVER = 2  # px: below it a box is a strip that a crop left over


def read_tin(data: Path, uses: dict[str, Use], mosaic: int, share: float) -> tuple[dict[str, list[Sample]], tuple[str, ...]]:
    """The pictures of both halves, with the class names. `share`: of the training images. BadData."""
    split = load_split(data, labels=True, boxes=True)
    assert split.boxes is not None
    samples = {}
    for half, images, boxes in (("train", split.train, split.boxes.train), ("test", split.test, split.boxes.test)):
        use = uses[half]
        ordered = [one for one in by_rank(images.samples) if _place_to_find(boxes[one.key], use)]
        kept = ordered[: int(share * len(ordered))] if half == "train" else ordered
        alone = [_alone(number, one, boxes[one.key], use) for number, one in enumerate(kept, 1)]
        mosaics = _mosaics(kept, boxes, mosaic, use, len(ordered)) if mosaic else []
        samples[half] = [*alone, *mosaics]
        if not samples[half]:
            raise BadData(data, f"has no picture to {half} on: an empty split")
    dropped = Counter(split.counts)
    next(iter(uses.values())).counts.update(dropped)
    return samples, split.train.classes


def _place_to_find(one: ObjectBox, use: Use) -> bool:
    x1, y1, x2, y2 = one.box
    rule = "whole_image" if one.whole else "sliver" if min(x2 - x1, y2 - y1) < SLIVER else ""
    if rule:
        use.drop(rule)
    return not rule


def _alone(number: int, one: folder.Sample, box: ObjectBox, use: Use) -> Sample:
    assert one.label is not None
    fields = usable([Annotated(box=box.box, label=one.label)], box.size_wh, use)
    return Sample(key=one.key, image_id=number, tiles=(one,), size_wh=box.size_wh, **fields)


def _mosaics(kept: list[folder.Sample], boxes: Mapping[str, ObjectBox], side: int, use: Use, first: int) -> list[Sample]:
    """Blocks of side x side ids in a row; the few left over are only alone. Ids go on after all that are alone."""
    size = side * TILE, side * TILE
    found = []
    for number in range(len(kept) // side**2):
        tiles = kept[number * side**2 : (number + 1) * side**2]
        objects = []
        for place, one in enumerate(tiles):
            row, column = divmod(place, side)
            x1, y1, x2, y2 = (TILE * edge for edge in boxes[one.key].scaled)
            left, top = column * TILE, row * TILE
            assert one.label is not None
            objects.append(Annotated(box=(left + x1, top + y1, left + x2, top + y2), label=one.label))
        key = f"mosaic/{number:05d}"
        fields = usable(objects, size, use)
        found.append(Sample(key=key, image_id=first + 1 + number, tiles=tuple(tiles), size_wh=size, **fields))
    return found
