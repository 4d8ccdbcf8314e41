"""COCO files -> samples: annotations/instances_train*.json and instances_val*.json, the pictures in folders of their names.

Masks stay as they are annotated, polygons or run lengths, checked; ids stay COCO's; classes are the file's categories by id.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from insloc_eval.detection.data import Mask, Sample
from insloc_eval.detection.objects import Annotated, Use, usable
from insloc_eval.detection.runs import check_runs
from insloc_hub.data import folder
from insloc_hub.errors import BadData

LISTS = ("images", "annotations", "categories")
HALVES = {"train": "train", "test": "val"}


def read_coco(data: Path, half: str, use: Use) -> tuple[list[Sample], tuple[str, ...]]:
    """The pictures of one half by id, with the names of the classes by category id. BadData: malformed, or none."""
    path = _file(data, HALVES[half])
    content = _content(path)
    numbers = _categories(path, content["categories"])
    objects = _objects(path, content["annotations"], {one["id"]: one for one in content["images"]}, numbers, use)
    images = sorted(content["images"], key=lambda one: one["id"])
    place = _place(data, path, images)
    samples = []
    for image in images:
        key, size = image["file_name"], (image["width"], image["height"])
        fields = usable(objects.get(image["id"], ()), size, use)
        tile = folder.Sample(key, place / key)
        samples.append(Sample(key=key, image_id=image["id"], tiles=(tile,), size_wh=size, **fields))
    names = {one["id"]: one["name"] for one in content["categories"]}
    return samples, tuple(names[category] for category in numbers)


def _file(data: Path, half: str) -> Path:
    found = sorted((data / "annotations").glob(f"instances_{half}*.json"))
    if len(found) != 1:
        said = ", ".join(path.name for path in found) or "none"
        raise BadData(data / "annotations", f"needs one instances_{half}*.json; there is {said}")
    return found[0]


def _content(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise BadData(path, f"is no JSON ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in LISTS):
        raise BadData(path, f"is no COCO file for detectors: it needs the lists {', '.join(LISTS)}")
    for number, image in enumerate(content["images"]):
        whole = isinstance(image, dict) and isinstance(image.get("file_name"), str)
        if not whole or not all(type(image.get(k)) is int and image[k] > 0 for k in ("id", "width", "height")):
            raise BadData(path, f"images[{number}] needs a file_name, and id, width and height as integers above 0")
    for name in ("images", "annotations"):
        ids = [one.get("id") for one in content[name] if isinstance(one, dict)]
        if len(set(map(str, ids))) < len(content[name]):
            raise BadData(path, f"{name} have an id twice, or none; each needs its own")
    if not content["images"]:
        raise BadData(path, "lists no image: an empty split gives no score")
    return {name: content[name] for name in LISTS}


def _categories(path: Path, categories: list[Any]) -> dict[int, int]:
    """Category id -> label, by id."""
    if not all(isinstance(one, dict) and type(one.get("id")) is int and isinstance(one.get("name"), str) for one in categories):
        raise BadData(path, "each of `categories` needs an integer id and a name")
    ids = sorted({one["id"] for one in categories})
    if not ids or len(ids) < len(categories):
        raise BadData(path, "`categories` is empty, or has an id twice")
    return {category: label for label, category in enumerate(ids)}


def _objects(
    path: Path, annotations: list[Any], images: dict[int, dict[str, Any]], numbers: dict[int, int], use: Use
) -> dict[int, list[Annotated]]:
    found: dict[int, list[Annotated]] = {}
    for number, one in enumerate(annotations):
        where = f"annotations[{number}] (id {one.get('id')})"
        if one.get("image_id") not in images:
            raise BadData(path, f"{where} is of image {one.get('image_id')!r}, which the file does not list")
        if one.get("category_id") not in numbers:
            raise BadData(path, f"{where} has the unknown category id {one.get('category_id')!r}")
        x, y, w, h = _four(path, where, one.get("bbox"))
        image = images[one["image_id"]]
        mask = _mask(path, where, one.get("segmentation"), (image["height"], image["width"])) if use.masks else None
        area = one.get("area")
        known = isinstance(area, int | float) and math.isfinite(area)
        found.setdefault(one["image_id"], []).append(
            Annotated(
                box=(x, y, x + w, y + h),
                label=numbers[one["category_id"]],
                mask=mask,
                area=float(area) if known else None,
                crowd=bool(one.get("iscrowd")),
            )
        )
    return found


def _mask(path: Path, where: str, value: Any, size_hw: tuple[int, int]) -> Mask | None:
    """Polygons or run lengths, checked; None where there is none."""
    if not value:
        return None
    if isinstance(value, dict):
        problem = check_runs(value, size_hw)
    else:
        rows = value if isinstance(value, list) else [None]
        good = all(isinstance(r, list) and len(r) >= 6 and len(r) % 2 == 0 and _finite(r) for r in rows)
        problem = "" if good else "a polygon needs an even number of finite numbers, at least 6"
    if problem:
        raise BadData(path, f"the segmentation of {where} is malformed: {problem}")
    mask: Mask = value
    return mask


def _place(data: Path, path: Path, images: Sequence[dict[str, Any]]) -> Path:
    """The folder that the pictures lie in. BadData: one is missing; the text names it."""
    name = path.stem.removeprefix("instances_")
    half = "train" if name.startswith("train") else "val"
    places = [data / name, data / half, data / "images" / name, data / "images", data]
    place = next((one for one in places if (one / images[0]["file_name"]).is_file()), places[0])
    missing = [one["file_name"] for one in images if not (place / one["file_name"]).is_file()]
    if missing:
        raise BadData(place, f"{len(missing)} of the {len(images)} images of {path.name} are missing, e.g. {missing[0]}")
    return place


def _four(path: Path, where: str, row: Any) -> tuple[float, float, float, float]:
    if not isinstance(row, list) or len(row) != 4 or not _finite(row):
        raise BadData(path, f"the box of {where} must be four finite numbers; got {str(row)[:80]}")
    return float(row[0]), float(row[1]), float(row[2]), float(row[3])


def _finite(row: list[Any]) -> bool:
    return all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in row)
