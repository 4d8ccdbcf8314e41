"""Which reader, which share, which limits; and that no empty half ever gives a score."""

import json
import tarfile
from dataclasses import replace

import pytest
import torch
from annotated import coco_content, voc_object, write_coco, write_voc
from PIL import Image

from insloc_eval.detection.split import load_detection_split
from insloc_eval.protocols.detection import QUICK, QUICK_MASK, TIN_LOW
from insloc_hub.errors import BadData, BadImage

CELL = voc_object("cell", (3, 4, 12, 20))


def voc(folder, train: int = 4, test: int = 3):
    learn, ask = ({f"{half}{i}": CELL for i in range(n)} for half, n in (("learn", train), ("ask", test)))
    return write_voc(folder, {"trainval": learn, "test": ask})


def test_the_split_counts_what_it_holds(tmp_path) -> None:
    split = load_detection_split(voc(tmp_path), QUICK)
    assert (len(split.learn), split.tested, split.classes) == (4, 3, ("cell",))
    assert split.counts == {"train_images": 4, "train_objects": 4, "test_images": 3, "test_objects": 3}


def test_limits_and_shares_take_the_first_by_id(tmp_path) -> None:
    voc(tmp_path)
    whole = load_detection_split(tmp_path, QUICK)
    part = load_detection_split(tmp_path, replace(QUICK, train_share=0.5), test_limit=2)
    assert [s.key for s in part.learn] == [s.key for s in whole.learn[:2]]
    assert [s.key for s in part.ask] == [s.key for s in whole.ask[:2]]
    assert [s.key for s in load_detection_split(tmp_path, QUICK, train_limit=1).learn] == [whole.learn[0].key]


def test_a_training_picture_without_objects_is_left_out_and_counted_and_a_test_picture_is_kept(tmp_path) -> None:
    write_voc(tmp_path, {"trainval": {"a": CELL, "b": ""}, "test": {"c": CELL, "d": ""}})
    split = load_detection_split(tmp_path, QUICK)
    assert (len(split.learn), split.tested) == (1, 2)
    assert split.counts["train_images_without_objects"] == split.counts["test_images_without_objects"] == 1


@pytest.mark.parametrize(
    ("train", "test", "problem"),
    [
        ({"a": ""}, {"c": CELL, "d": CELL}, "no training picture is left"),
        ({"a": CELL}, {"c": "", "d": ""}, "no object to find"),
        ({"a": CELL}, {"c": CELL}, "fewer than 2"),
    ],
)
def test_an_empty_half_is_refused(tmp_path, train, test, problem) -> None:
    with pytest.raises(BadData, match=problem):
        load_detection_split(write_voc(tmp_path, {"trainval": train, "test": test}), QUICK)


def test_a_class_that_is_asked_and_never_taught_is_named(tmp_path) -> None:
    write_voc(tmp_path, {"trainval": {"a": CELL}, "test": {"c": CELL, "d": voc_object("dot", (1, 1, 9, 9))}})
    (note,) = load_detection_split(tmp_path, QUICK).notes
    assert "1 of the tested classes have no training object" in note and note.endswith("dot")


def test_the_fingerprint_changes_with_boxes_labels_difficulty_and_pixels(tmp_path) -> None:
    variants = [
        CELL,
        voc_object("cell", (3, 4, 12, 21)),
        voc_object("dot", (3, 4, 12, 20)),
        voc_object("cell", (3, 4, 12, 20), 1),
    ]
    prints = []
    for number, objects in enumerate(variants):
        lists = {"trainval": {"a": CELL}, "test": {"c": objects, "d": CELL}}
        prints.append(load_detection_split(write_voc(tmp_path / str(number), lists), QUICK).fingerprint(False))
    Image.new("RGB", (40, 30)).save(tmp_path / "0" / "JPEGImages" / "d.jpg")
    prints.append(load_detection_split(tmp_path / "0", QUICK).fingerprint(False))
    assert len(set(prints)) == 5


def test_a_picture_of_another_size_than_annotated_is_refused_when_it_is_read(tmp_path) -> None:
    voc(tmp_path)
    Image.new("RGB", (30, 40)).save(tmp_path / "JPEGImages" / "ask0.jpg")
    split = load_detection_split(tmp_path, QUICK)
    with pytest.raises(BadImage, match="is 30 x 40 px, but its annotation says 40 x 30"):
        split.ask[0].load()


def test_masks_need_coco_files_and_mosaics_need_a_list_of_boxes(tmp_path) -> None:
    voc(tmp_path)
    with pytest.raises(BadData, match="learns masks"):
        load_detection_split(tmp_path, QUICK_MASK)
    with pytest.raises(BadData, match=r"it needs boxes\.json"):
        load_detection_split(tmp_path, TIN_LOW[2])
    with pytest.raises(BadData, match="has no boxes; detection needs"):
        load_detection_split(tmp_path / "Annotations", QUICK)


def test_two_coco_halves_must_name_the_same_classes(tmp_path) -> None:
    other = coco_content()
    other["categories"][0]["name"] = "wolf"
    with pytest.raises(BadData, match="different categories"):
        load_detection_split(write_coco(tmp_path, coco_content(first=5), other), QUICK)
    split = load_detection_split(write_coco(tmp_path, coco_content(first=5), coco_content()), QUICK_MASK)
    assert split.classes == ("cat", "dog") and split.how == "instances_train and instances_val"


@pytest.fixture
def objects(fill, tmp_path):
    """Three classes of ten pictures of 64 px with a box each, in both halves; in each half one is whole and one a sliver."""
    fill(tmp_path, {f"{half}/{name}": 10 for half in ("train", "val") for name in "abc"}, size=(64, 64))
    boxes = {f"{name}/{i:03d}.png": [8, 16, 40, 48] for name in "abc" for i in range(10)}
    boxes |= {"a/003.png": [0, 0, 64, 64], "a/004.png": [5, 5, 6, 60]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def test_images_with_one_box_each_come_alone_and_once_in_a_mosaic(objects) -> None:
    split = load_detection_split(objects, TIN_LOW[2])
    assert split.counts["test_objects_dropped_whole_image"] == split.counts["test_objects_dropped_sliver"] == 1
    alone, mosaics = split.learn[:28], split.learn[28:]
    assert len(mosaics) == 3 and mosaics[0].size_wh == (192, 192) and len(mosaics[0].boxes) == 9
    assert mosaics[0].tiles == tuple(one.tiles[0] for one in alone[:9])
    assert mosaics[0].boxes[4].tolist() == [64 + 8, 64 + 16, 64 + 40, 64 + 48]
    assert torch.equal(mosaics[0].load()[:, 64:128, 64:128], alone[4].load())
    assert len({sample.image_id for sample in split.learn}) == len(split.learn) == 31


def test_a_tenth_of_such_images_is_in_every_larger_share_and_has_every_class(objects) -> None:
    some, whole = (load_detection_split(objects, replace(TIN_LOW[2], train_share=share)) for share in (0.11, 1.0))
    assert [s.key for s in some.learn] == [s.key for s in whole.learn[:3]]
    assert torch.cat([s.labels for s in some.learn]).unique().tolist() == [0, 1, 2]


def test_the_shared_cells_read_as_their_page_says(insloc_data, tmp_path) -> None:
    with tarfile.open(insloc_data / "bccd" / "bccd.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    split = load_detection_split(tmp_path / "bccd", QUICK)
    assert (len(split.learn), split.tested, split.classes) == (292, 72, ("Platelets", "RBC", "WBC"))
    known = [torch.cat([s.labels for s in half]).bincount().tolist() for half in (split.learn, split.ask)]
    dropped = [split.counts.get(f"{half}_objects_dropped_single_point", 0) for half in ("train", "test")]
    said = [[292, 3350, 301], [69, 805, 71]]
    assert sum(dropped) == 2
    assert [[p, rbc + lost, wbc] for (p, rbc, wbc), lost in zip(known, dropped, strict=True)] == said


def test_the_shared_scenes_read_as_their_page_says(insloc_data, tmp_path) -> None:
    with tarfile.open(insloc_data / "coco-mini" / "coco-mini.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    split = load_detection_split(tmp_path / "coco-mini", QUICK_MASK)
    assert (len(split.learn), split.tested, len(split.classes)) == (98, 63, 80)
    counts = split.counts
    assert counts["train_objects_dropped_crowd"] == 14 and counts["test_images_without_objects"] == 2
    assert sum(int(s.crowd.sum()) for s in split.ask) == 13
    assert counts["train_objects"] == 1025 - 14 and counts["test_objects"] == 718
    areas = torch.cat([s.areas[~s.crowd] for s in split.ask])
    assert [int((areas < 32**2).sum()), int((areas >= 96**2).sum())] == [367, 125]
