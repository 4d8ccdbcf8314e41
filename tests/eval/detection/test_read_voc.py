"""VOC devkits: years joined as the protocols join them, corners from 1, faults named or counted."""

from collections import Counter

import pytest
from annotated import voc_object, write_voc

from insloc_eval.detection.objects import Use
from insloc_eval.detection.read_voc import read_voc
from insloc_hub.errors import BadData

CELL = voc_object("cell", (3, 4, 12, 20))
EMPTY = "<annotation><size><width>0</width><height>5</height></size></annotation>"


def read(folder):
    uses = {half: Use(half=half, masks=False, counts=Counter()) for half in ("train", "test")}
    samples, classes = read_voc(folder, uses)
    return samples, classes, uses["train"].counts + uses["test"].counts


def kit(folder, trainval=None, test=None):
    lists = {"trainval": {"a": CELL} if trainval is None else trainval, "test": {"b": CELL} if test is None else test}
    return write_voc(folder, lists)


def test_corners_counted_from_1_become_edges(tmp_path) -> None:
    samples, classes, counts = read(kit(tmp_path))
    assert samples["test"][0].boxes.tolist() == [[2, 3, 12, 20]] and classes == ("cell",) and not counts
    assert samples["test"][0].key == "JPEGImages/b.jpg" and samples["test"][0].areas.tolist() == [170]


def test_07_and_12_are_trained_on_and_the_test_of_07_is_asked(tmp_path) -> None:
    write_voc(tmp_path / "VOC2007", {"trainval": {"a": CELL, "c": CELL}, "test": {"b": CELL}})
    write_voc(tmp_path / "VOC2012", {"trainval": {"d": CELL, "e": CELL}, "train": {"d": CELL}, "val": {"e": CELL}})
    samples, _, _ = read(tmp_path)
    assert [one.key for one in samples["train"]] == [
        *("VOC2007/JPEGImages/a.jpg", "VOC2007/JPEGImages/c.jpg"),
        *("VOC2012/JPEGImages/d.jpg", "VOC2012/JPEGImages/e.jpg"),
    ]
    assert [one.key for one in samples["test"]] == ["VOC2007/JPEGImages/b.jpg"]


def test_a_kit_of_train_and_val_alone_is_asked_on_its_val(tmp_path) -> None:
    write_voc(tmp_path, {"train": {"a": CELL}, "val": {"b": CELL}})
    samples, _, _ = read(tmp_path)
    assert [samples[half][0].key for half in ("train", "test")] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]


def test_difficult_objects_are_kept_and_marked(tmp_path) -> None:
    samples, _, _ = read(kit(tmp_path, test={"b": CELL + voc_object("dot", (1, 1, 5, 5), difficult=1)}))
    assert samples["test"][0].difficult.tolist() == [False, True]


def test_points_reversed_boxes_and_boxes_outside_are_dropped_and_counted(tmp_path) -> None:
    odd = [(7, 7, 7, 7), (9, 4, 3, 20), (50, 4, 60, 20), (30, 4, 44, 20)]
    samples, _, counts = read(kit(tmp_path, test={"b": CELL + "".join(voc_object("cell", box) for box in odd)}))
    assert counts == {
        "test_objects_dropped_single_point": 1,
        "test_objects_dropped_empty": 1,
        "test_objects_dropped_outside": 1,
        "test_objects_partly_outside": 1,
    }
    assert len(samples["test"][0].boxes) == 2


def test_names_outside_ascii_are_names(tmp_path) -> None:
    samples, classes, _ = read(kit(tmp_path, test={"кровь": voc_object("клетка", (3, 4, 12, 20))}))
    assert samples["test"][0].key == "JPEGImages/кровь.jpg" and classes == ("cell", "клетка")
    assert samples["test"][0].load().shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda f: (f / "JPEGImages" / "b.jpg").unlink(), "1 of the 1 images of test.txt are missing, e.g. JPEGImages/b.jpg"),
        (lambda f: (f / "Annotations" / "b.xml").unlink(), "the annotation of b is missing"),
        (lambda f: (f / "Annotations" / "b.xml").write_text("<annotation>"), "is no XML"),
        (lambda f: (f / "Annotations" / "b.xml").write_text("<annotation/>"), "<size> needs the finite numbers width, height"),
        (lambda f: (f / "Annotations" / "b.xml").write_text(EMPTY), "says the image is 0 x 5 px"),
        (lambda f: write_voc(f, {"test": {"b": voc_object("", (1, 2, 3, 4))}}), "object 0 has no name"),
        (
            lambda f: write_voc(f, {"test": {"b": voc_object("x", ("", 2, 3, 4))}}),
            "<bndbox> of object 0 needs",
        ),
        (lambda f: write_voc(f, {"test": {"b": voc_object("x", ("nan", 2, 3, 4))}}), "finite"),
        (lambda f: (f / "ImageSets" / "Main" / "test.txt").write_text(""), "no image to test on"),
        (lambda f: (f / "ImageSets" / "Main" / "test.txt").write_text("b\nb\n"), "lists an image twice"),
        (lambda f: (f / "ImageSets" / "Main" / "test.txt").write_bytes(b"\xff\xfe"), "can't be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_t_be_right_is_refused_by_name(tmp_path, spoil, problem) -> None:
    kit(tmp_path)
    with pytest.raises(BadData, match=problem):
        spoil(tmp_path)
        read(tmp_path)


def test_a_folder_without_a_kit_is_refused(tmp_path) -> None:
    with pytest.raises(BadData, match="has no VOC devkit"):
        read(tmp_path)
