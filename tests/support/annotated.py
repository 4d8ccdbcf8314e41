"""Small folders of annotated pictures: VOC devkits and COCO files, written down object by object."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 30)  # width, height


def picture(path: Path, size: tuple[int, int] = SIZE, boxes: list[list[float]] | None = None) -> None:
    """Faint noise of its own; boxes (XYXY) in red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(path.name.encode()))
    pixels = generator.integers(100, 130, (size[1], size[0], 3), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes or []:
        pixels[int(y1) : int(y2), int(x1) : int(x2)] = (220, 30, 30)
    Image.fromarray(pixels).save(path, quality=95)


def voc_object(name: str, corners: tuple[Any, Any, Any, Any], difficult: int = 0) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def write_voc(kit: Path, lists: dict[str, dict[str, str]], size: tuple[int, int] = SIZE) -> Path:
    """write_voc(folder, {"trainval": {"stem": objects as XML}}): lists, annotations and pictures."""
    (kit / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (kit / "Annotations").mkdir(exist_ok=True)
    for name, images in lists.items():
        text = "\n".join(images) + "\n"
        (kit / "ImageSets" / "Main" / f"{name}.txt").write_text(text, encoding="utf-8")
        for stem, objects in images.items():
            facts = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
            text = f"<annotation>{facts}{objects}</annotation>"
            (kit / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
            picture(kit / "JPEGImages" / f"{stem}.jpg", size)
    return kit


def coco_content(images: int = 2, size: tuple[int, int] = SIZE, first: int = 1) -> dict[str, Any]:
    """Pictures first, first + 1, ... with one object each; categories 3 (cat) and 7 (dog)."""
    w, h = size
    return {
        "images": [{"id": first + i, "file_name": f"{first + i:04d}.jpg", "width": w, "height": h} for i in range(images)],
        "annotations": [
            {
                "id": 10 * (first + i),
                "image_id": first + i,
                "category_id": (3, 7)[i % 2],
                "bbox": [4, 5, 20, 12],
                "area": 200.0,
                "iscrowd": 0,
                "segmentation": [[4, 5, 24, 5, 24, 17, 4, 17]],
            }
            for i in range(images)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write_coco(data: Path, train: dict[str, Any], val: dict[str, Any]) -> Path:
    """The two files and the pictures they list; an object's box is red."""
    for half, content in (("train2017", train), ("val2017", val)):
        path = data / "annotations" / f"instances_{half}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        for image in content["images"]:
            rows = [one["bbox"] for one in content["annotations"] if one.get("image_id") == image["id"]]
            boxes = [[x, y, x + w, y + h] for x, y, w, h in rows]
            picture(data / half / image["file_name"], (image["width"], image["height"]), boxes)
    return data
