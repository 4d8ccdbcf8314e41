"""COCO files: what is read is what is annotated; what can't be right is refused by name or counted."""

import json
from collections import Counter
from typing import Any

import pytest
from annotated import coco_content, write_coco

from insloc_eval.detection.objects import Use
from insloc_eval.detection.read_coco import read_coco
from insloc_hub.errors import BadData


def use(half: str = "test", masks: bool = True) -> Use:
    return Use(half=half, masks=masks, counts=Counter())


def read(folder, change=None, half: str = "test", masks: bool = True):
    content = coco_content()
    if change:
        change(content)
    write_coco(folder, coco_content(first=11), content)
    counted = use(half, masks)
    samples, classes = read_coco(folder, half, counted)
    return samples, classes, counted.counts


def test_boxes_become_corners_and_labels_follow_the_category_ids(tmp_path) -> None:
    samples, classes, counts = read(tmp_path)
    assert classes == ("cat", "dog") and not counts
    assert [sample.image_id for sample in samples] == [1, 2]
    assert samples[0].boxes.tolist() == [[4, 5, 24, 17]] and samples[0].areas.tolist() == [200]
    assert [sample.labels.tolist() for sample in samples] == [[0], [1]]
    assert samples[0].masks == ([[4, 5, 24, 5, 24, 17, 4, 17]],)
    assert samples[1].load().shape == (3, 30, 40)


def test_a_crowd_is_kept_in_the_test_and_dropped_from_training_and_counted(tmp_path) -> None:
    runs = {"size": [30, 40], "counts": [0, 100, 1100]}

    def crowd(content: dict[str, Any]) -> None:
        content["annotations"][0].update(iscrowd=1, segmentation=runs)

    samples, _, counts = read(tmp_path, crowd)
    assert samples[0].crowd.tolist() == [True] and samples[0].masks == (runs,) and not counts
    write_coco(tmp_path, coco_content(), coco_content())
    content = coco_content()
    crowd(content)
    write_coco(tmp_path, content, coco_content())
    learn = use("train")
    samples, _ = read_coco(tmp_path, "train", learn)
    assert len(samples[0].boxes) == 0 and learn.counts == {"train_objects_dropped_crowd": 1}


@pytest.mark.parametrize(
    ("box", "counted"),
    [
        ([4, 5, 0, 12], "test_objects_dropped_empty"),
        ([4, 5, -3, 12], "test_objects_dropped_empty"),
        ([60, 5, 20, 12], "test_objects_dropped_outside"),
        ([30, 5, 20, 12], "test_objects_partly_outside"),
    ],
)
def test_a_box_without_area_or_outside_the_image_is_counted(tmp_path, box, counted) -> None:
    samples, _, counts = read(tmp_path, lambda content: content["annotations"][0].update(bbox=box))
    assert counts == {counted: 1}
    assert len(samples[0].boxes) == (1 if counted.endswith("partly_outside") else 0)


def test_an_object_without_a_mask_is_dropped_and_counted_where_masks_are_learnt_and_kept_elsewhere(tmp_path) -> None:
    samples, _, counts = read(tmp_path, lambda content: content["annotations"][0].pop("segmentation"))
    assert len(samples[0].boxes) == 0 and counts == {"test_objects_dropped_without_mask": 1}
    samples, _, counts = read(tmp_path, lambda content: content["annotations"][0].pop("segmentation"), masks=False)
    assert len(samples[0].boxes) == 1 and samples[0].masks is None and not counts


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["annotations"][1].update(category_id=99), r"annotations\[1\] \(id 20\) has the unknown category id 99"),
        (lambda c: c["annotations"][1].update(image_id=99), "is of image 99, which the file does not list"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "must be four finite numbers"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "must be four finite numbers"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "at least 6"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [30, 40], "counts": [5]}), "make up 5 pixels"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [30, 40], "counts": "ab~"}), "no run lengths"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [40, 30], "counts": [1200]}),
            "its size is",
        ),
        (lambda c: c["annotations"][1].update(id=10), "an id twice"),
        (lambda c: c["annotations"].append(3), "an id twice, or none"),
        (lambda c: c["images"][0].update(width=0), r"images\[0\] needs"),
        (lambda c: c["images"].clear(), "an empty split gives no score"),
        (lambda c: c["categories"].clear(), "`categories` is empty"),
        (lambda c: c["categories"][0].update(id="7"), "needs an integer id and a name"),
        (lambda c: c.pop("annotations"), "needs the lists images, annotations, categories"),
    ],
)
def test_what_can_t_be_right_is_refused_by_name(tmp_path, change, problem) -> None:
    write_coco(tmp_path, coco_content(), coco_content())
    with pytest.raises(BadData, match=problem):
        content = coco_content()
        change(content)
        path = tmp_path / "annotations" / "instances_val2017.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        read_coco(tmp_path, "test", use())


def test_a_missing_image_is_named(tmp_path) -> None:
    write_coco(tmp_path, coco_content(), coco_content())
    (tmp_path / "val2017" / "0002.jpg").unlink()
    with pytest.raises(BadData, match=r"1 of the 2 images of instances_val2017.json are missing, e.g. 0002.jpg"):
        read_coco(tmp_path, "test", use())


def test_names_outside_ascii_are_names(tmp_path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"] = "кошка 猫.jpg"
        content["categories"][1]["name"] = "猫"

    samples, classes, _ = read(tmp_path, rename)
    assert samples[0].key == "кошка 猫.jpg" and classes[0] == "猫" and samples[0].load().shape == (3, 30, 40)


def test_no_file_two_files_and_no_json_are_refused(tmp_path) -> None:
    write_coco(tmp_path, coco_content(), coco_content())
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BadData, match="is no JSON"):
        read_coco(tmp_path, "test", use())
    path.with_name("instances_val.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadData, match=r"there is instances_val.json, instances_val2017.json"):
        read_coco(tmp_path, "test", use())
    for one in (tmp_path / "annotations").glob("*val*"):
        one.unlink()
    with pytest.raises(BadData, match="there is none"):
        read_coco(tmp_path, "test", use())
