"""Three formats of boxes: read to edge coordinates, every dropped box by its rule, malformed files refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from insloc_hub.data.annotations import find_annotations, read_annotations, without_suffix
from insloc_hub.errors import BadData

VOC = """<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>
<size><width>50</width><height>40</height><depth>3</depth></size>{objects}</annotation>"""
VOC_OBJECT = "<object><name>cat</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>{}</object>"
PART = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"


def coco(folder: Path, images: list[Any], annotations: list[Any], half: str = "train") -> Path:
    path = folder / "annotations" / f"instances_{half}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def voc(folder: Path, name: str, *objects: tuple[int, int, int, int]) -> Path:
    path = folder / "VOC2007" / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(VOC.format(name=name, objects="".join(VOC_OBJECT.format(*box, PART) for box in objects)))
    return path


def test_coco_corner_and_size_become_edges_and_crowds_and_empty_boxes_are_counted(tmp_path: Path) -> None:
    rows = [{"image_id": 7, "bbox": [1, 2, 10, 20.5]}, {"image_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 1}]
    path = coco(tmp_path, [{"id": 7, "file_name": "a/x.jpg"}], [*rows, {"image_id": 7, "bbox": [3, 3, 0, 5]}])
    assert find_annotations(tmp_path) == {path: "coco"}
    found = read_annotations(tmp_path, [path], "coco")
    assert found.boxes == {"a/x": [(1.0, 2.0, 11.0, 22.5)]}
    assert found.dropped == {"crowd": 1, "empty": 1}


def test_a_list_holds_one_box_an_image_or_several(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text('{"n01_1": [1, 2, 3, 4], "n01_2.JPEG": [[0, 0, 1, 1], [5, 5, 4, 6]], "n01_3": []}')
    assert find_annotations(tmp_path) == {path: "list"}
    with pytest.raises(BadData, match="the box of n01_3 must be four finite numbers"):
        read_annotations(tmp_path, [path], "list")
    path.write_text('{"n01_1": [1, 2, 3, 4], "n01_2.JPEG": [[0, 0, 1, 1], [5, 5, 4, 6]]}')
    found = read_annotations(tmp_path, [path], "list")
    assert found.boxes == {"n01_1": [(1, 2, 3, 4)], "n01_2": [(0, 0, 1, 1)]} and found.dropped == {"empty": 1}


def test_voc_loses_one_on_the_left_and_parts_of_objects_are_no_objects(tmp_path: Path) -> None:
    voc(tmp_path, "000001", (1, 1, 50, 40), (11, 21, 20, 30))
    (folder,) = find_annotations(tmp_path)
    found = read_annotations(tmp_path, [folder], "voc")
    assert found.boxes == {"VOC2007/JPEGImages/000001": [(0, 0, 50, 40), (10, 20, 20, 30)]}


def test_no_boxes_and_boxes_of_two_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"has no boxes; this task needs annotations/instances_\*\.json"):
        find_annotations(tmp_path)
    coco(tmp_path, [], [])
    (tmp_path / "boxes.json").write_text("{}")
    with pytest.raises(BadData, match=r"several kinds \(annotations/instances_train.json, boxes.json\)"):
        find_annotations(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is no JSON"),
        ("[]", "must be an object"),
        ('{"a": [1, 2, 3]}', "the box of a must be four finite numbers"),
        ('{"a": [1, 2, 3, NaN]}', "the box of a must be four finite numbers"),
        ('{"a": [1, 2, 3, "4"]}', "the box of a must be four finite numbers"),
        ('{"a": [1, 2, 3, true]}', "the box of a must be four finite numbers"),
        ('{"a": {"x": 1}}', "the box of a must be four finite numbers"),
        ('{"a.png": [1, 2, 3, 4], "a": [1, 2, 3, 4]}', "'a' is annotated twice"),
    ],
)
def test_malformed_lists_are_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(BadData, match=problem) as caught:
        read_annotations(tmp_path, [tmp_path / "boxes.json"], "list")
    assert caught.value.path.endswith("boxes.json")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "is no COCO file"),
        ({"images": []}, "is no COCO file"),
        ({"images": [{"id": 1}], "annotations": []}, r"images\[0\] needs an id and a file_name"),
        ({"images": [], "annotations": [{"image_id": 3, "bbox": [0, 0, 1, 1]}]}, r"annotations\[0\] names no image"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1}]}, "four finite numbers; got None"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}], "annotations": []}, "annotated twice"),
    ],
)
def test_malformed_coco_files_are_refused_by_name(tmp_path: Path, content: Any, problem: str) -> None:
    path = coco(tmp_path, [], [])
    path.write_text(json.dumps(content))
    with pytest.raises(BadData, match=problem):
        read_annotations(tmp_path, [path], "coco")


def test_malformed_xml_is_refused_by_name(tmp_path: Path) -> None:
    path = voc(tmp_path, "000001", (1, 1, 5, 5))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(BadData, match=r"000001\.xml: can't be read as XML"):
        read_annotations(tmp_path, [path.parent], "voc")
    path.write_text(VOC.format(name="000001", objects="<object><name>cat</name></object>"))
    with pytest.raises(BadData, match="the box of object 0 must be four finite numbers"):
        read_annotations(tmp_path, [path.parent], "voc")


@pytest.mark.parametrize(("name", "stem"), [("a/b.PNG", "a/b"), ("b.tar.jpg", "b.tar"), ("n.5", "n.5"), ("", "")])
def test_names_lose_only_an_images_suffix(name: str, stem: str) -> None:
    assert without_suffix(name) == stem
