"""The procedural world: the same for the same seed, and what its annotations say is what is drawn."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from insloc_hub.demo.outlines import OUTLINES, circle, polygon
from insloc_hub.demo.textures import TEXTURES
from insloc_hub.demo.things import LOOKS, Light, Placement, paint
from insloc_hub.demo.world import CLASSES, FIRST_VAL_INDEX, STAMP, Picture, WorldFacts, draw, pictures, write
from insloc_hub.errors import BadData, InslocError

LIGHT = Light(turn=0.3, height=0.7, warmth=0.0, exposure=1.0)


def small_world(folder: Path, **changes: int) -> WorldFacts:
    return write(folder, **{"seed": 3, "train_per_class": 2, "val_per_class": 1, "size": 64, **changes})


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def slow_box(mask: np.ndarray) -> list[float]:
    """Edges around the true pixels, pixel by pixel."""
    inside = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs, ys = [x for x, _ in inside], [y for _, y in inside]
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@pytest.fixture(scope="module")
def seen() -> list[Picture]:
    return [draw(5, index, (72, 90)) for index in range(48)]


def test_there_are_twelve_classes_each_with_an_outline_and_a_texture_of_its_own() -> None:
    assert len(CLASSES) >= 12 and tuple(sorted(set(CLASSES))) == CLASSES
    assert set(CLASSES) == set(OUTLINES) == set(LOOKS)
    assert len({texture for texture, _ in LOOKS.values()}) == len(CLASSES)
    assert {texture for texture, _ in LOOKS.values()} <= set(TEXTURES)


def test_an_image_is_the_same_at_each_call_and_another_for_each_seed_and_index() -> None:
    first, again = draw(1, 7, 64), draw(1, 7, 64)
    for field in dataclasses.fields(Picture):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name
    others = [draw(2, 7, 64), draw(1, 8, 64), draw(1, 7 + len(CLASSES), 64), draw(1, 7 + FIRST_VAL_INDEX, 64)]
    for other in others:
        assert np.abs(first.pixels.astype(int) - other.pixels).mean() > 5


def test_an_image_is_the_same_in_another_process() -> None:
    script = "import hashlib; from insloc_hub.demo.world import draw\n"
    script += "print(hashlib.sha256(draw(4, 9, (50, 70)).pixels.tobytes()).hexdigest())"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == hashlib.sha256(draw(4, 9, (50, 70)).pixels.tobytes()).hexdigest()


def test_drawing_leaves_numpys_global_generator_alone() -> None:
    np.random.seed(0)
    expected = np.random.RandomState(0).random_sample(4)
    draw(0, 0, 64)
    assert np.array_equal(np.random.random_sample(4), expected)


def test_size_is_height_then_width() -> None:
    picture = draw(0, 0, (40, 56))
    assert picture.pixels.shape == (40, 56, 3) and picture.masks.shape[1:] == (40, 56)


def test_boxes_are_tight_around_the_visible_masks(seen: list[Picture]) -> None:
    for picture in seen:
        assert picture.boxes.tolist() == [slow_box(mask) for mask in picture.masks]


def test_no_pixel_belongs_to_two_objects(seen: list[Picture]) -> None:
    assert max(int(picture.masks.sum(0).max()) for picture in seen) == 1


def test_the_main_object_comes_first_is_the_largest_and_gives_the_label(seen: list[Picture]) -> None:
    for index, picture in enumerate(seen):
        areas = picture.masks.sum((1, 2))
        assert picture.label == picture.labels[0] == index % len(CLASSES)
        assert areas[0] >= 0.02 * 72 * 90
        sides = np.maximum(picture.boxes[:, 2] - picture.boxes[:, 0], picture.boxes[:, 3] - picture.boxes[:, 1])
        assert sides.argmax() == 0


def test_scale_place_and_company_vary(seen: list[Picture]) -> None:
    main = np.stack([picture.boxes[0] for picture in seen])
    sides = np.sqrt((main[:, 2] - main[:, 0]) * (main[:, 3] - main[:, 1]))
    middles = (main[:, :2] + main[:, 2:]) / 2
    assert sides.max() > 1.8 * sides.min()
    assert (np.ptp(middles, axis=0) > [90 / 3, 72 / 3]).all()
    assert {len(picture.boxes) for picture in seen} == {1, 2, 3}


def test_the_object_differs_from_its_surroundings_where_the_mask_ends(seen: list[Picture]) -> None:
    """Pixels change more across a mask's edge than between neighbours elsewhere: the mask is where the object is."""
    across, elsewhere = [], []
    for picture in seen:
        mask = picture.masks.any(0)
        change = np.abs(np.diff(picture.pixels.astype(float), axis=1)).mean(2)
        edge = mask[:, 1:] != mask[:, :-1]
        across.append(change[edge].mean())
        elsewhere.append(change[~edge].mean())
    assert np.mean(across) > 2.5 * np.mean(elsewhere)


@pytest.mark.parametrize(("stretch", "turn"), [(1.0, 0.0), (1.5, 0.7)])
def test_a_painted_disc_covers_the_area_of_its_ellipse(stretch: float, turn: float) -> None:
    place = Placement(name="disc", x=60.0, y=50.0, radius=30.0, turn=turn, stretch=stretch)
    mask = paint(np.zeros((100, 120, 3), np.float32), place, LIGHT, np.random.default_rng(0))
    assert mask.sum() == pytest.approx(np.pi * 30**2, rel=0.01)
    y, x = np.nonzero(mask)
    assert (x.mean() + 0.5, y.mean() + 0.5) == pytest.approx((60, 50), abs=0.1)
    # The covariance of a full ellipse with half axes p, q is p^2 / 4 and q^2 / 4 along them.
    half_axes = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(x, y)))
    assert half_axes == pytest.approx(sorted([30 * stretch**0.5, 30 / stretch**0.5]), rel=0.01)


def test_a_turn_goes_clockwise_on_the_screen() -> None:
    place = Placement(name="arrow", x=50.0, y=50.0, radius=40.0, turn=np.pi / 2, stretch=1.0)
    mask = paint(np.zeros((100, 100, 3), np.float32), place, LIGHT, np.random.default_rng(0))
    rows = mask.sum(1)
    assert rows[52:80].max() > 1.5 * rows[15:45].max()  # an arrow to the right now points down: its wide head is below


def test_painting_changes_only_the_objects_surroundings() -> None:
    canvas = np.full((100, 120, 3), 0.5, np.float32)
    place = Placement(name="star", x=30.0, y=30.0, radius=12.0, turn=0.4, stretch=1.0)
    mask = paint(canvas, place, LIGHT, np.random.default_rng(0))
    changed = (canvas != 0.5).any(2)
    assert changed[mask].all() and not changed[60:].any() and not changed[:, 60:].any()


def test_a_polygon_with_many_corners_is_a_circle() -> None:
    v, u = np.mgrid[-2:2:40j, -2:2:41j]
    turns = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ngon = polygon(u, v, [(float(np.cos(turn)), float(np.sin(turn))) for turn in turns])
    assert np.abs(ngon - circle(u, v)).max() < 1e-3


@pytest.mark.parametrize("name", CLASSES)
def test_every_outline_fits_into_the_unit_circle_and_is_no_sliver(name: str) -> None:
    v, u = np.mgrid[-1.5:1.5:301j, -1.5:1.5:301j]
    inside = OUTLINES[name](u, v) <= 0
    assert np.hypot(u, v)[inside].max() <= 1.03
    assert 0.2 < inside.mean() * 9 / np.pi <= 1.01  # share of the unit circle


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_every_texture_stays_in_range_and_has_contrast(name: str) -> None:
    v, u = np.mgrid[-1:1:64j, -1:1:64j].astype(np.float32)
    generator = np.random.default_rng(0)
    field = TEXTURES[name](generator, u, v, generator.random((64, 64), dtype=np.float32))
    assert field.min() >= 0 and field.max() <= 1 and field.std() > 0.1


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 64), (0, -1, 64), (0, 0, 31), (0, 0, (64, 20))])
def test_a_picture_that_cannot_be_is_refused(seed: int, index: int, size: int | tuple[int, int]) -> None:
    with pytest.raises(InslocError, match="at least 32 pixels"):
        draw(seed, index, size)


def test_every_class_folder_has_the_promised_count(world: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        found = Counter(path.parent.name for path in (world / split).glob("*/*.jpg"))
        assert found == dict.fromkeys(CLASSES, count)
    assert not list(world.rglob("*.part"))


def test_image_sizes_vary_and_some_are_not_square(world: Path) -> None:
    sizes = {Image.open(path).size for path in (world / "train").glob("*/*.jpg")}
    assert len(sizes) > 20 and any(w > h for w, h in sizes) and any(w < h for w, h in sizes)
    assert all(60 <= side <= 107 for size in sizes for side in size)


@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_reads_the_annotations_and_finds_the_drawn_masks(tmp_path: Path, split: str) -> None:
    facts = small_world(tmp_path)
    coco = COCO(str(tmp_path / "annotations" / f"instances_{split}.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert coco.getCatIds() == list(range(1, len(CLASSES) + 1))
    drawn = dict(pictures(facts, split))
    assert {image["file_name"] for image in coco.loadImgs(coco.getImgIds())} == set(drawn)
    for image in coco.loadImgs(coco.getImgIds()):
        picture = drawn[image["file_name"]]
        assert Image.open(tmp_path / split / image["file_name"]).size == (image["width"], image["height"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert [annotation["category_id"] - 1 for annotation in found] == picture.labels.tolist()
        for annotation, mask in zip(found, picture.masks, strict=True):
            assert np.array_equal(coco.annToMask(annotation), mask)
            x, y, w, h = annotation["bbox"]
            assert [x, y, x + w, y + h] == slow_box(mask)
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0 and annotation["id"] > 0


def test_written_pixels_are_the_drawn_ones_up_to_jpeg(tmp_path: Path) -> None:
    facts = small_world(tmp_path)
    for key, picture in pictures(facts, "val"):
        stored = np.asarray(Image.open(tmp_path / "val" / key)).astype(float)
        assert np.abs(stored - picture.pixels).mean() < 4


def test_an_image_does_not_depend_on_how_many_are_made(tmp_path: Path) -> None:
    small_world(tmp_path / "few")
    small_world(tmp_path / "more", train_per_class=3, val_per_class=2)
    few, more = digests(tmp_path / "few"), digests(tmp_path / "more")
    images = [name for name in few if name.endswith(".jpg")]
    assert len(images) == 3 * len(CLASSES) and all(few[name] == more[name] for name in images)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        small_world(tmp_path / name, seed=seed)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert set(a) == set(c) and not any(a[name] == c[name] for name in a)


def test_a_finished_world_is_left_alone(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    facts = write(tmp_path, seed=3, train_per_class=2, val_per_class=1, size=64, progress=lambda *at: calls.append(at))
    assert calls == [(done, 36) for done in range(1, 37)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = write(tmp_path, seed=3, train_per_class=2, val_per_class=1, size=64, progress=lambda *at: calls.append(at))
    assert again == facts and len(calls) == 36
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_a_world_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    small_world(tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", seed=3, train_per_class=2, val_per_class=1, size=64, progress=stop)
    assert len(list((tmp_path / "cut").rglob("*.jpg"))) == 20
    small_world(tmp_path / "cut")
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_a_finished_world_that_lost_an_image_is_mended(tmp_path: Path) -> None:
    small_world(tmp_path)
    before = digests(tmp_path)
    next((tmp_path / "val").rglob("*.jpg")).unlink()
    small_world(tmp_path)
    assert digests(tmp_path) == before


def test_a_world_of_other_facts_is_replaced_and_strangers_files_stay(tmp_path: Path) -> None:
    small_world(tmp_path / "place", train_per_class=4)
    note = tmp_path / "place" / "train" / "disc" / "note.txt"
    note.write_text("mine")
    small_world(tmp_path / "place")
    small_world(tmp_path / "fresh")
    left = digests(tmp_path / "place")
    assert left.pop("train/disc/note.txt") == hashlib.sha256(b"mine").hexdigest()
    assert left == digests(tmp_path / "fresh")


def test_a_folder_with_something_else_in_it_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(BadData, match=f"no {STAMP}"):
        small_world(tmp_path)
    (tmp_path / STAMP).write_text(json.dumps({"seed": 3}))
    with pytest.raises(BadData, match="not the stamp"):
        small_world(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", STAMP}


@pytest.mark.parametrize("changes", [{"train_per_class": 0}, {"val_per_class": 0}, {"size": 40}, {"seed": -1}])
def test_a_world_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(InslocError):
        small_world(tmp_path / "world", **changes)
    assert not (tmp_path / "world").exists()
