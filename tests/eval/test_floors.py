"""Floors: warned within the protocol's points, called uninformative within noise."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from insloc_eval.floors import floor_notes
from insloc_eval.protocols import LINEAR_LOGISTIC, PATCHES_LINEAR
from insloc_eval.store import Judged

MakeRecord = Callable[..., Judged]
PATCHES = {"protocol": "patches/linear@1", "rows": {"chance": {"top1": 1 / 9}, "oracle": {"top1": 1.0}}}


def outcomes(share: float, seed: int = 0) -> list[float]:
    """200 0/1 outcomes."""
    hits = np.zeros(200)
    hits[: round(200 * share)] = 1
    return list(np.random.default_rng(seed).permutation(hits))


@pytest.mark.parametrize(("mine", "warned"), [(0.30, True), (0.445, True), (0.46, False), (0.9, False)])
def test_a_model_within_5_points_of_a_random_network_is_warned_of(make_record: MakeRecord, mine: float, warned: bool) -> None:
    floors = [make_record("random:a", outcomes(0.4), **PATCHES), make_record("random:b", outcomes(0.2), **PATCHES)]
    floors.append(make_record("random:c", outcomes(0.99)))  # of another protocol
    judged = make_record("mine", outcomes(mine, 1), **PATCHES)
    found = floor_notes(judged, PATCHES_LINEAR, floors)
    assert any(note.startswith("WARNING") and "0.400" in note for note in found) is warned
    assert not any(note.startswith("WARNING") for note in floor_notes(judged, LINEAR_LOGISTIC, floors))
    assert not any("random" in note for note in floor_notes(judged, PATCHES_LINEAR, []))


@pytest.mark.parametrize(("mine", "called"), [(0.3, True), (0.42, True), (0.47, True), (0.60, False)])
def test_a_model_within_noise_of_random_weights_is_called_uninformative(
    make_record: MakeRecord, mine: float, called: bool
) -> None:
    """Independent outcomes of 200 images: the difference's half width is about .1."""
    floors = [make_record("random:a", outcomes(0.4), **PATCHES)]
    found = floor_notes(make_record("mine", outcomes(mine, 1), **PATCHES), PATCHES_LINEAR, floors)
    assert any(note.startswith("UNINFORMATIVE") and "random:a" in note for note in found) is called


def test_a_small_gain_on_every_image_is_informative(make_record: MakeRecord) -> None:
    """Paired: the same images are compared, so that their own spread does not hide it."""
    theirs = np.linspace(0, 0.8, 50)
    floors = [make_record("random:a", list(theirs), **PATCHES)]
    found = floor_notes(make_record("mine", list(theirs + 0.1), **PATCHES), PATCHES_LINEAR, floors)
    assert found == ()


@pytest.mark.parametrize(("mine", "called"), [(0.1, True), (0.14, True), (0.25, False)])
def test_a_model_within_noise_of_a_row_that_never_looks_is_called_uninformative(
    make_record: MakeRecord, mine: float, called: bool
) -> None:
    found = floor_notes(make_record("mine", outcomes(mine), **PATCHES), PATCHES_LINEAR, [])
    assert any("'chance'" in note for note in found) is called
    assert not any("oracle" in note for note in found)


def test_what_is_not_applicable_has_no_floor(make_record: MakeRecord) -> None:
    judged = make_record("mine", outcomes(0.1), **PATCHES)
    empty = Judged(result=replace(judged.result, metrics={}, not_applicable="no such map"), outcomes=judged.outcomes)
    assert floor_notes(empty, PATCHES_LINEAR, [judged]) == ()
    assert floor_notes(judged, PATCHES_LINEAR, [empty]) == floor_notes(judged, PATCHES_LINEAR, [])
