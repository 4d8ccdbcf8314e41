"""Run-length encodings: what pycocotools writes is read as it was meant, what is damaged is named."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from insloc_eval.detection.runs import check_runs, text_to_runs


def runs_of(pixels: np.ndarray) -> list[int]:
    """The slow definition: lengths of equal values down the columns, the first of background."""
    runs, value, length = [], 0, 0
    for pixel in pixels.T.ravel().tolist():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    return [*runs, length]


@pytest.mark.parametrize("seed", range(20))
def test_text_is_read_as_pycocotools_wrote_it(seed) -> None:
    generator = np.random.default_rng(seed)
    h, w = generator.integers(1, 90, 2)
    pixels = (generator.random((h, w)) < generator.random()).astype(np.uint8)
    encoded = coco_mask.encode(np.asfortranarray(pixels))
    assert text_to_runs(encoded["counts"]) == runs_of(pixels)
    assert check_runs({"size": [int(h), int(w)], "counts": encoded["counts"].decode()}, (int(h), int(w))) == ""


def test_cut_or_changed_text_is_named() -> None:
    encoded = coco_mask.encode(np.asfortranarray(np.eye(40, dtype=np.uint8)))
    text = encoded["counts"].decode()
    for damaged in (text[:-1], text[:-2] + "~~", text + "é", ""):
        assert check_runs({"size": [40, 40], "counts": damaged}, (40, 40))


@pytest.mark.parametrize("counts", [None, 7, [1, -2, 7], [1.5, 4.5], ["1"], [True, 5]])
def test_counts_that_are_no_run_lengths_are_named(counts) -> None:
    assert check_runs({"size": [2, 3], "counts": counts}, (2, 3)) == "its counts are no run lengths"
