"""AP of a resample is the AP of its copies; what is stored is read back."""

from dataclasses import replace

import numpy as np
import pytest
from scored import case

from insloc_eval.detection.coco import match_coco
from insloc_eval.detection.precision import Matches, average_precision, from_arrays, mean_precision, names_of
from insloc_eval.detection.voc import match_voc


def copies(matches: Matches, counts: np.ndarray) -> Matches:
    """The matches of images written out as often as they were drawn."""
    drawn = np.repeat(np.arange(len(counts)), counts)
    at = [np.flatnonzero(matches.image == image) for image in drawn]
    rows = np.concatenate(at) if at else np.zeros(0, dtype=int)
    return replace(
        matches,
        image=np.repeat(np.arange(len(drawn)), [len(one) for one in at]),
        label=matches.label[rows],
        score=matches.score[rows],
        hit=matches.hit[:, rows],
        ignored=matches.ignored[:, rows],
        objects=matches.objects[:, drawn],
    )


@pytest.mark.parametrize("seed", range(0, 20, 2))
@pytest.mark.parametrize("rule", ["voc", "coco"])
def test_a_resample_scores_as_its_copies_written_out(seed: int, rule: str) -> None:
    samples, found = case(seed, images=9)
    matches = match_voc(samples, found, 3) if rule == "voc" else match_coco(samples, found, 3, "bbox")["all"]
    unique = np.random.default_rng(seed).permutation(len(matches.score)) / len(matches.score)
    matches = replace(matches, score=unique)  # between equal scores of two images the order of copies would differ
    counts = np.random.default_rng(seed).multinomial(9, np.full(9, 1 / 9), 5)
    table = average_precision(matches, counts)
    for row, count in zip(table, counts, strict=True):
        assert row == pytest.approx(average_precision(copies(matches, count))[0], abs=1e-12, nan_ok=True)


def test_what_is_stored_is_read_back() -> None:
    samples, found = case(3)
    matches = match_coco(samples, found, 3, "bbox")["all"]
    stored = matches.as_arrays("bbox:all")
    assert names_of(stored) == ["bbox:all"]
    again = from_arrays(stored, "bbox:all")
    for name in ("image", "label", "score", "hit", "ignored", "objects"):
        assert (getattr(again, name) == getattr(matches, name)).all(), name
    assert again.rule == matches.rule


def test_large_resamples_are_done_in_blocks(monkeypatch) -> None:
    samples, found = case(5)
    matches = match_voc(samples, found, 3)
    counts = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), 40)
    whole = average_precision(matches, counts)
    monkeypatch.setattr("insloc_eval.detection.precision.MOST_CELLS", 30)
    assert average_precision(matches, counts) == pytest.approx(whole, nan_ok=True)


def test_the_mean_leaves_out_classes_without_objects() -> None:
    table = np.array([[[1.0, np.nan], [0.5, np.nan]], [[np.nan, np.nan], [np.nan, np.nan]]])
    assert mean_precision(table) == pytest.approx([0.75, np.nan], nan_ok=True)
