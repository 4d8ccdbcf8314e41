"""Objects of images: matched by name, clipped, one an image; what is left out is counted by its rule."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from insloc_eval.objects import ObjectBox, match
from insloc_eval.sets import load_split
from insloc_hub.data.annotations import Annotations
from insloc_hub.data.folder import Sample
from insloc_hub.errors import BadData

Fill = Callable[..., Path]


def listed(folder: Path, boxes: dict[str, object]) -> Path:
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


def test_the_world_has_an_object_in_every_image_the_larger_one_where_there_are_several(world: Path) -> None:
    split = load_split(world, labels=True, boxes=True)
    assert split.boxes is not None
    assert {s.key for s in split.train.samples} == set(split.boxes.train) and len(split.boxes.train) == 72
    assert {s.key for s in split.test.samples} == set(split.boxes.test) and len(split.boxes.test) == 36
    coco = json.loads((world / "annotations" / "instances_val.json").read_text())
    name = {image["id"]: image["file_name"] for image in coco["images"]}
    largest: dict[str, list[float]] = {}
    for one in coco["annotations"]:
        x, y, w, h = one["bbox"]
        known = largest.setdefault(name[one["image_id"]], one["bbox"])
        if w * h > known[2] * known[3]:
            largest[name[one["image_id"]]] = one["bbox"]
    for key, found in split.boxes.test.items():
        x, y, w, h = largest[key]
        assert found.box == (x, y, x + w, y + h)
    both = sum(len(json.loads(p.read_text())["annotations"]) for p in (world / "annotations").glob("*.json"))
    assert split.counts == {"boxes_dropped_not_the_largest": both - 108}


def test_every_box_that_is_left_out_is_counted_by_the_rule(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "train/b": 2, "val/a": 2, "val/b": 3}, size=(40, 32))
    (tmp_path / "val/b/002.png").write_bytes(b"no picture")
    boxes = {f"{c}/{i:03d}": [1, 2, 30, 31] for c in "ab" for i in range(2)}  # of both halves at once
    listed(
        tmp_path,
        {**boxes, "a/002": [[0, 0, 3, 3], [-5, -5, 50, 50], [50, 1, 60, 9]], "b/002": [1, 1, 2, 2], "c/1": [0, 0, 1, 1]},
    )
    split = load_split(tmp_path, labels=True, boxes=True)
    assert split.boxes is not None
    assert split.boxes.train["a/002.png"].box == (0, 0, 40, 32) and split.boxes.train["a/002.png"].size_wh == (40, 32)
    assert len(split.train) == 5 and len(split.test) == 4
    assert split.counts == {
        "boxes_dropped_outside": 1,
        "boxes_dropped_not_the_largest": 1,
        "boxes_dropped_image_unreadable": 1,
        "boxes_dropped_image_not_here": 1,
        "test_images_without_box": 1,
    }


def test_images_without_a_box_leave_and_limits_come_after(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 9, "val/a": 9})
    listed(tmp_path, {f"{i:03d}": [1, 1, 9, 9] for i in range(5)})
    split = load_split(tmp_path, labels=False, boxes=True, train_limit=4)
    assert len(split.train) == 4 and len(split.test) == 5
    assert split.counts == {"train_images_without_box": 4, "test_images_without_box": 4}


def test_the_fingerprint_sees_a_moved_box_only_where_boxes_are_asked(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "val/a": 3})
    boxes = {f"{i:03d}": [1, 1, 9, 9] for i in range(3)}
    prints = []
    for corner in (1, 2):
        listed(tmp_path, {**boxes, "002": [corner, 1, 9, 9]})
        prints.append([load_split(tmp_path, labels=False, boxes=asked).fingerprint(True) for asked in (False, True)])
    assert prints[0][0] == prints[1][0] and prints[0][1] != prints[1][1]
    assert prints[0][0] != prints[0][1]


def test_each_half_takes_the_file_that_names_it(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"train": 3, "val": 3})
    (tmp_path / "annotations").mkdir()
    for half, corner in (("train2017", 1), ("val2017", 2)):
        images = [{"id": i, "file_name": f"{i:03d}.png"} for i in range(3)]
        rows = [{"image_id": i, "bbox": [corner, 1, 9, 9]} for i in range(3)]
        (tmp_path / "annotations" / f"instances_{half}.json").write_text(json.dumps({"images": images, "annotations": rows}))
    split = load_split(tmp_path, labels=False, boxes=True)
    assert split.boxes is not None
    assert {one.box[0] for one in split.boxes.train.values()} == {1.0}
    assert {one.box[0] for one in split.boxes.test.values()} == {2.0}


def test_a_voc_devkit_gives_its_images_and_not_its_masks(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"VOC2007/JPEGImages": 30, "VOC2007/SegmentationClass": 30})
    (tmp_path / "VOC2007/Annotations").mkdir()
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
    for i in range(30):
        text = f"<annotation><filename>{i:03d}.png</filename><object>{box}</object></annotation>"
        (tmp_path / f"VOC2007/Annotations/{i:03d}.xml").write_text(text)
    split = load_split(tmp_path, labels=False, boxes=True)
    keys = {s.key for s in (*split.train.samples, *split.test.samples)}
    assert keys == {f"VOC2007/JPEGImages/{i:03d}.png" for i in range(30)}
    assert split.boxes is not None and {one.box for one in split.boxes.train.values()} == {(2.0, 3.0, 20.0, 30.0)}
    assert split.counts["train_images_without_box"] + split.counts["test_images_without_box"] == 30


def test_a_name_that_two_images_end_in_is_refused(tmp_path: Path) -> None:
    samples = tuple(Sample(key, tmp_path / key) for key in ("a/1.png", "b/1.png"))
    with pytest.raises(BadData, match=r"'1' could be a/1.png or b/1.png"):
        match(tmp_path, Annotations(boxes={"1": []}), samples)
    assert match(tmp_path, Annotations(boxes={"a/1": [], "1": []}), samples) == {"a/1.png": "a/1", "b/1.png": "1"}


def test_annotations_of_other_images_are_refused(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "val/a": 3})
    with pytest.raises(BadData, match="has no usable box for any of the 3 images of train"):
        load_split(listed(tmp_path, {"other": [0, 0, 1, 1]}), labels=False, boxes=True)


def test_sizes_are_those_of_upright_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for half in ("train", "val"):
        (tmp_path / half).mkdir()
        for name in ("0.jpg", "1.png", "2.webp"):
            Image.new("RGB", (60, 20)).save(tmp_path / half / name, exif=exif)
    split = load_split(listed(tmp_path, {str(i): [1, 2, 20, 70] for i in range(3)}), labels=False, boxes=True)
    assert split.boxes is not None
    assert {(one.box, one.size_wh) for one in split.boxes.test.values()} == {((1, 2, 20, 60), (20, 60))}


@pytest.mark.parametrize(
    ("box", "whole", "share"),
    [((0, 0, 64, 48), True, 1.0), ((0.4, 0, 64, 48), True, None), ((1, 0, 64, 48), False, None), ((0, 0, 32, 48), False, 0.5)],
)
def test_a_whole_image_is_no_place(box: tuple[float, float, float, float], whole: bool, share: float | None) -> None:
    one = ObjectBox(box=box, size_wh=(64, 48))
    assert one.whole is whole
    assert share is None or one.share == pytest.approx(share)
    assert one.scaled[2] == 1.0 or one.scaled == (0.0, 0.0, 0.5, 1.0)
