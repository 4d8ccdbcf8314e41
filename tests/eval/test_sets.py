"""Data folders: halves, limits, and everything that can be wrong with a folder."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from insloc_eval.sets import halves_of, held_out, limited, load_split, unreadable
from insloc_hub.data.folder import Sample
from insloc_hub.errors import BadData

Fill = Callable[..., Path]


def samples(**classes: int) -> tuple[Sample, ...]:
    return tuple(Sample(f"{c}/{i}.png", Path(f"{c}/{i}.png"), k) for k, (c, n) in enumerate(classes.items()) for i in range(n))


def test_train_and_val_folders_are_the_halves(world: Path) -> None:
    split = load_split(world, labels=True)
    assert (len(split.train), len(split.test)) == (72, 36)
    assert {s.label for s in split.test.samples} == set(range(12))
    assert all(s.path.is_relative_to(world / "val") for s in split.test.samples)
    assert 60 <= split.median_short_px <= 107


def test_one_class_folder_is_cut_80_20_in_every_class_the_same_each_time(world: Path) -> None:
    split = load_split(world / "train", labels=True)
    again = load_split(world / "train", labels=True)
    assert Counter(s.label for s in split.test.samples) == dict.fromkeys(range(12), 1)  # a fifth of 6
    assert not {s.key for s in split.test.samples} & {s.key for s in split.train.samples}
    assert len(split.train) + len(split.test) == 72
    assert again.fingerprint(True) == split.fingerprint(True)
    assert "80/20" in split.how


def test_a_plain_folder_will_do_without_labels_and_is_refused_with(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {".": 10})
    split = load_split(tmp_path, labels=False)
    assert (len(split.train), len(split.test)) == (8, 2)
    with pytest.raises(BadData, match="subfolder for each class"):
        load_split(tmp_path, labels=True)


def test_halves_are_the_even_and_odd_sorted_keys_of_every_class() -> None:
    halves = halves_of(samples(a=5, b=4)[::-1])
    assert [s.key for s in halves["A"]] == ["a/0.png", "a/2.png", "a/4.png", "b/0.png", "b/2.png"]
    assert [s.key for s in halves["B"]] == ["a/1.png", "a/3.png", "b/1.png", "b/3.png"]


def test_a_half_of_the_test_images_is_asked_by_name_and_named_in_the_record(world: Path) -> None:
    whole, a, b = (load_split(world, labels=False, half=half) for half in ("", "A", "B"))
    assert {s.key for s in a.test.samples} | {s.key for s in b.test.samples} == {s.key for s in whole.test.samples}
    assert (len(a.test), len(b.test)) == (24, 12)  # three images a class: even, odd, even
    assert len(a.train) == len(whole.train)
    assert "half" not in whole.how and a.how.endswith("half A of the test images") and a.how != b.how
    assert len({split.fingerprint(False) for split in (whole, a, b)}) == 3


def test_a_half_is_one_of_the_classes_even_where_no_label_is_asked_for(world: Path) -> None:
    assert load_split(world, labels=False, half="B").test == load_split(world, labels=True, half="B").test


def test_limits_take_classes_in_turn_and_the_same_images_each_time(world: Path) -> None:
    split = load_split(world, labels=True, train_limit=24, test_limit=13)
    assert Counter(s.label for s in split.train.samples) == dict.fromkeys(range(12), 2)
    assert sorted(Counter(s.label for s in split.test.samples).values()) == [1] * 11 + [2]
    keys = [s.key for s in split.train.samples]
    assert keys == sorted(keys)
    larger = load_split(world, labels=True, train_limit=36)
    assert set(keys) < {s.key for s in larger.train.samples}


@pytest.mark.parametrize(("limit", "left"), [(None, 7), (100, 7), (3, 3)])
def test_a_limit_is_the_most_that_is_kept(limit: int | None, left: int) -> None:
    assert len(limited(samples(a=5, b=2), limit)) == left


@pytest.mark.parametrize(
    ("groups", "out"),
    [([], 0), ([0], 0), ([0, 0], 1), ([0] * 20, 2), ([0] * 20 + [1] * 2 + [2], 3)],
)
def test_a_tenth_of_each_group_is_held_out_and_at_least_one_of_two(groups: list[int], out: int) -> None:
    assert sum(held_out([str(i) for i in range(len(groups))], list(groups), 0.1)) == out


def test_the_fingerprint_sees_training_images_only_where_they_matter(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    before = [load_split(tmp_path, labels=True).fingerprint(training) for training in (False, True)]
    (tmp_path / "train/a/000.png").unlink()
    after = [load_split(tmp_path, labels=True).fingerprint(training) for training in (False, True)]
    assert before[0] == after[0] and before[1] != after[1]
    (tmp_path / "val/a/000.png").unlink()
    assert load_split(tmp_path, labels=True).fingerprint(False) != after[0]


def test_test_images_of_unknown_classes_are_left_out_counted_and_named(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "train/b": 3, "train/z": 1, "val/a": 2, "val/newt": 3, "val/z": 1})
    split = load_split(tmp_path, labels=True)
    assert {s.key.split("/")[0]: s.label for s in split.test.samples} == {"a": 0, "z": 2}
    assert split.counts == {"test_without_training_class": 3, "classes_without_test_image": 1}
    assert "newt" in split.notes[0] and ": b" in split.notes[1]


def test_a_class_of_one_image_trains_and_is_not_tested_and_this_is_said(fill: Fill, tmp_path: Path) -> None:
    fill(tmp_path, {"a": 5, "b": 5, "lonely": 1})
    split = load_split(tmp_path, labels=True)
    assert {s.key for s in split.train.samples if s.label == 2} == {"lonely/000.png"}
    assert split.counts == {"classes_without_test_image": 1} and "lonely" in split.notes[0]


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({}, "no such folder"),
        ({"train/a": 2, "train/b": 2}, "has train/ but no val/"),
        ({"val/a": 2, "val/b": 2}, "has val/ but no train/"),
        ({"train/a": 2, "train/b": 2, "val/a": 0}, "at least 2; it has 1"),
        ({"train/a": 2, "train/b": 2, "val/a": 0, "val/b": 0}, "a class folder without an image"),
        ({"train/a": 2, "train/b": 2, "val/x": 2, "val/y": 2}, "0 test images are left"),
        ({"train/a": 2, "train/b": 0, "val/a": 2, "val/b": 2}, "without an image"),
        ({"a": 1, "b": 1}, "no image|0 test images"),
    ],
)
def test_a_folder_that_gives_no_test_is_refused_with_the_reason(
    fill: Fill, tmp_path: Path, wanted: dict[str, int], problem: str
) -> None:
    with pytest.raises(BadData, match=problem):
        load_split(fill(tmp_path / "data", wanted), labels=True)


def test_a_folder_of_damaged_images_is_refused(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.jpg").write_bytes(b"no picture")
    with pytest.raises(BadData, match="none of"):
        load_split(tmp_path, labels=False)


def test_unreadable_images_are_counted_and_the_first_are_named() -> None:
    assert unreadable({}, "test") == ({}, ())
    counts, (note,) = unreadable({f"{i}.png": "cut short" for i in range(5)}, "test")
    assert counts == {"test_unreadable": 5}
    assert note.startswith("5 unreadable test images skipped: 0.png (cut short)") and note.endswith("and 2 more")
