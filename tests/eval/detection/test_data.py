"""One annotated picture: its pixels, its objects, what a fingerprint sees of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from insloc_eval.detection.data import DetectionSplit, Sample, objects_of
from insloc_hub.data import folder
from insloc_hub.data.folder import ImageSet
from insloc_hub.errors import BadImage


def picture(path: Path, size_wh: tuple[int, int], value: int) -> folder.Sample:
    Image.new("RGB", size_wh, (value, 0, 0)).save(path)
    return folder.Sample(key=path.name, path=path)


def sample(tiles: tuple[folder.Sample, ...], size_wh: tuple[int, int]) -> Sample:
    objects = objects_of([(1, 2, 5, 8.5), (0, 0, 3, 3)], labels=[1, 0], crowd=[False, True])
    return Sample(key="a", image_id=7, tiles=tiles, size_wh=size_wh, **objects)


def test_rows_become_float_boxes_with_their_own_areas_and_no_flags() -> None:
    objects = objects_of([(1, 2, 5, 8.5)], labels=[3])
    assert objects["boxes"].dtype == torch.float32 and objects["boxes"].tolist() == [[1, 2, 5, 8.5]]
    assert objects["areas"].tolist() == [26.0] and objects["labels"].tolist() == [3] and objects["masks"] is None
    assert not objects["crowd"].any() and not objects["difficult"].any()
    assert objects_of([])["boxes"].shape == (0, 4)


def test_a_picture_of_another_size_than_annotated_is_refused_by_name(tmp_path: Path) -> None:
    one = picture(tmp_path / "ö.png", (6, 4), 9)
    assert sample((one,), (6, 4)).load().shape == (3, 4, 6)
    with pytest.raises(BadImage, match=r"ö\.png.*is 6 x 4 px, but its annotation says 4 x 6"):
        sample((one,), (4, 6)).load()


def test_the_tiles_of_a_mosaic_lie_row_by_row(tmp_path: Path) -> None:
    tiles = tuple(picture(tmp_path / f"{i}.png", (5 + i, 9), 10 * i) for i in range(4))
    pixels = sample(tiles, (8, 8)).load()
    assert pixels.shape == (3, 8, 8)
    assert pixels[0, ::4, ::4].tolist() == [[0, 10], [20, 30]] and pixels[0, 3, 3] == 0 and pixels[0, 4, 4] == 30


def test_the_fingerprint_sees_boxes_labels_and_flags_and_training_pictures_only_where_they_matter(tmp_path: Path) -> None:
    one = sample((picture(tmp_path / "a.png", (9, 9), 1),), (9, 9))
    empty = ImageSet(root=tmp_path, samples=())
    split = DetectionSplit(
        name="x", how="y", train=empty, test=empty, median_short_px=9.0, learn=(one,), ask=(one,), classes=("a", "b")
    )
    other = replace(one, difficult=torch.tensor([True, False]))
    assert split.fingerprint(True) != split.fingerprint(False)
    assert replace(split, learn=(other,)).fingerprint(False) == split.fingerprint(False)
    for change in (replace(split, learn=(other,)), replace(split, ask=(other,)), replace(split, classes=("a", "c"))):
        assert change.fingerprint(True) != split.fingerprint(True)
