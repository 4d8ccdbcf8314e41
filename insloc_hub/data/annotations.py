"""Boxes of a data folder: COCO files, boxes.json, or a VOC devkit -> boxes by image name (contracts.md 9).

Boxes come out as XYXY with edge coordinates (x2 - x1 = width) in pixels of the upright image: COCO's corner and size are
added up, VOC's inclusive 1-based corners lose one on the left. A malformed file is refused by name; a box that its own
file calls unusable (a crowd) or that is empty is dropped and counted.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from insloc_hub.data.decode import SUFFIXES
from insloc_hub.errors import BadData

Box = tuple[float, float, float, float]
"""XYXY."""
LISTED = "boxes.json"
KINDS = f"annotations/instances_*.json (COCO), {LISTED}, or a VOC devkit with Annotations/*.xml"


@dataclass(kw_only=True, slots=True)
class Annotations:
    """What one source says, by image name without its suffix."""

    boxes: dict[str, list[Box]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    """Rule -> boxes it dropped."""

    def add(self, name: str, box: Box) -> None:
        """Keep a box, or drop it by the rule `empty`."""
        if box[2] <= box[0] or box[3] <= box[1]:
            self.dropped["empty"] += 1
        else:
            self.boxes[name].append(box)

    def open(self, path: Path, name: str) -> str:
        """Begin an image; its name without the suffix. BadData: it is there twice."""
        stem = without_suffix(name)
        if stem in self.boxes:
            raise BadData(path, f"the image {name!r} is annotated twice; each must have one entry")
        self.boxes[stem] = []
        return stem


def annotation_sources(data: Path) -> dict[Path, str]:
    """The sources of boxes of a folder: path -> coco, list or voc; empty where there are none."""
    found = {path: "coco" for path in sorted((data / "annotations").glob("instances_*.json"))}
    found |= {path: "list" for path in (data / LISTED,) if path.is_file()}
    folders = [*data.glob("Annotations"), *data.glob("*/Annotations"), *data.glob("VOCdevkit/*/Annotations")]
    found |= {path: "voc" for path in sorted(folders) if any(path.glob("*.xml"))}
    return found


def find_annotations(data: Path) -> dict[Path, str]:
    """As `annotation_sources`, of one kind. BadData: none, or several kinds."""
    found = annotation_sources(data)
    if not found:
        raise BadData(data, f"has no boxes; this task needs {KINDS}")
    if len(set(found.values())) > 1:
        names = ", ".join(path.relative_to(data).as_posix() for path in found)
        raise BadData(data, f"has boxes of several kinds ({names}); leave one")
    return found


def read_annotations(data: Path, paths: list[Path], kind: str) -> Annotations:
    """The boxes of some sources of one kind, together. BadData: malformed, or an image is in two of them."""
    read = {"coco": _read_coco, "list": _read_list, "voc": _read_voc}[kind]
    found = Annotations()
    for path in paths:
        read(data, path, found)
    return found


def without_suffix(name: str) -> str:
    """A file name as images are matched by: without the suffix of an image.

    >>> without_suffix("a/b.x.JPEG"), without_suffix("n01_5.2")
    ('a/b.x', 'n01_5.2')
    """
    return name.rsplit(".", 1)[0] if name.lower().endswith(SUFFIXES) else name


def _read_coco(data: Path, path: Path, found: Annotations) -> None:
    content = _json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise BadData(path, "is no COCO file: it needs the lists `images` and `annotations`")
    name_of: dict[Any, str] = {}
    for number, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or "id" not in image:
            raise BadData(path, f"images[{number}] needs an id and a file_name")
        name_of[image["id"]] = found.open(path, image["file_name"])
    for number, one in enumerate(content["annotations"]):
        where = f"annotations[{number}]"
        if not isinstance(one, dict) or one.get("image_id") not in name_of:
            raise BadData(path, f"{where} names no image of this file")
        x, y, w, h = _four(path, where, one.get("bbox"))
        if one.get("iscrowd"):
            found.dropped["crowd"] += 1
        else:
            found.add(name_of[one["image_id"]], (x, y, x + w, y + h))


def _read_list(data: Path, path: Path, found: Annotations) -> None:
    content = _json(path)
    if not isinstance(content, dict):
        raise BadData(path, "must be an object: image name -> [x1, y1, x2, y2], or a list of such rows")
    for name, value in content.items():
        rows = value if isinstance(value, list) and value and all(isinstance(row, list) for row in value) else [value]
        stem = found.open(path, name)
        for row in rows:
            found.add(stem, _four(path, name, row))


def _read_voc(data: Path, folder: Path, found: Annotations) -> None:
    for path in sorted(folder.glob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise BadData(path, f"can't be read as XML ({error})") from None
        images = (folder.parent / "JPEGImages").relative_to(data)
        name = root.findtext("filename") or path.with_suffix(".jpg").name
        stem = found.open(path, (images / name).as_posix())
        for number, one in enumerate(root.iter("object")):
            corners = [one.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            x1, y1, x2, y2 = _four(path, f"object {number}", [_number(text) for text in corners])
            found.add(stem, (x1 - 1, y1 - 1, x2, y2))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise BadData(path, f"is no JSON ({error})") from None


def _four(path: Path, where: str, row: Any) -> Box:
    numbers = list(_numbers(row)) if isinstance(row, list) else []
    if len(numbers) != 4:
        raise BadData(path, f"the box of {where} must be four finite numbers; got {str(row)[:80]}")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _numbers(row: list[Any]) -> Iterator[float]:
    for value in row:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield float(value)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
