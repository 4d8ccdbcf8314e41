"""VOC devkits -> samples: the trainval images of every year there is, and the test images (paper.md C.1: 07+12 -> 07).

Corners are integers from 1 with both ends inside the object; one is taken off the left and upper, as detectron2 does.
Classes are the sorted names that occur; image ids count the sorted names of a half.
"""

import math
from pathlib import Path
from xml.etree import ElementTree

from insloc_eval.detection.data import Sample
from insloc_eval.detection.objects import Annotated, Use, usable
from insloc_hub.data import folder
from insloc_hub.errors import BadData

LISTS = {"train": ("trainval", "train"), "test": ("test", "val")}  # the first that there is

Found = list[tuple[str, Annotated]]
"""Class name and object, whose label is set when all names are known."""


def devkits(data: Path) -> list[Path]:
    """The folders with ImageSets/Main: the folder itself, or one for each year."""
    found = [path.parent.parent for at in ("", "*/", "VOCdevkit/*/") for path in data.glob(f"{at}ImageSets/Main")]
    return sorted(path for path in found if (path / "Annotations").is_dir())


def read_voc(data: Path, uses: dict[str, Use]) -> tuple[dict[str, list[Sample]], tuple[str, ...]]:
    """The pictures of both halves, with the names of the classes. BadData: malformed, an image is missing, or none."""
    kits = devkits(data)
    if not kits:
        raise BadData(data, "has no VOC devkit: it needs Annotations/, ImageSets/Main/ and JPEGImages/")
    entries = {half: [entry for kit in kits for entry in _entries(kit, data, half, uses[half])] for half in uses}
    names = sorted({name for half in entries.values() for _, _, found in half for name, _ in found})
    samples = {}
    for half, use in uses.items():
        if not entries[half]:
            raise BadData(data, f"lists no image to {half} on in ImageSets/Main/{LISTS[half][0]}.txt: an empty split")
        samples[half] = [
            _sample(number, tile, size, found, names, use)
            for number, (tile, size, found) in enumerate(sorted(entries[half], key=lambda one: one[0].key), 1)
        ]
    return samples, tuple(names)


def _sample(number: int, tile: folder.Sample, size: tuple[int, int], found: Found, names: list[str], use: Use) -> Sample:
    objects = [Annotated(box=one.box, label=names.index(name), difficult=one.difficult) for name, one in found]
    return Sample(key=tile.key, image_id=number, tiles=(tile,), size_wh=size, **usable(objects, size, use))


def _entries(kit: Path, data: Path, half: str, use: Use) -> list[tuple[folder.Sample, tuple[int, int], Found]]:
    main = kit / "ImageSets" / "Main"
    path = next((p for name in LISTS[half] if (p := main / f"{name}.txt").is_file()), None)
    if path is None or (half == "test" and path.stem == "val" and (main / "trainval.txt").is_file()):
        return []  # a year without a public test half, whose val is in its trainval
    try:
        stems = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(path, f"can't be read ({error})") from None
    if len(set(stems)) < len(stems):
        raise BadData(path, "lists an image twice")
    entries = [_entry(kit, data, stem, use) for stem in stems]
    missing = [tile.key for tile, _, _ in entries if not tile.path.is_file()]
    if missing:
        raise BadData(
            kit / "JPEGImages", f"{len(missing)} of the {len(stems)} images of {path.name} are missing, e.g. {missing[0]}"
        )
    return entries


def _entry(kit: Path, data: Path, stem: str, use: Use) -> tuple[folder.Sample, tuple[int, int], Found]:
    path = kit / "Annotations" / f"{stem}.xml"
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise BadData(path, f"the annotation of {stem} is missing ({error.strerror})") from None
    except ElementTree.ParseError as error:
        raise BadData(path, f"is no XML ({error})") from None
    size = _numbers(root, path, "size", ("width", "height"))
    if min(size) < 1:
        raise BadData(path, f"says the image is {size[0]:g} x {size[1]:g} px")
    found: Found = []
    for number, one in enumerate(root.iter("object")):
        x1, y1, x2, y2 = _numbers(one, path, "bndbox", ("xmin", "ymin", "xmax", "ymax"), f" of object {number}")
        name = one.findtext("name")
        if not name:
            raise BadData(path, f"object {number} has no name")
        if (x1, y1) == (x2, y2):
            use.drop("single_point")
            continue
        difficult = (one.findtext("difficult") or "0").strip() == "1"
        found.append((name, Annotated(box=(x1 - 1, y1 - 1, x2, y2), label=0, difficult=difficult)))
    image = kit / "JPEGImages" / f"{stem}.jpg"
    return folder.Sample(image.relative_to(data).as_posix(), image), (int(size[0]), int(size[1])), found


def _numbers(node: ElementTree.Element, path: Path, place: str, names: tuple[str, ...], where: str = "") -> list[float]:
    try:
        values = [float(node.findtext(f"{place}/{name}") or "") for name in names]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise BadData(path, f"<{place}>{where} needs the finite numbers {', '.join(names)}")
    return values
