"""Protocols: names are looked up without torch; a record says what it must."""

from dataclasses import replace

import pytest

from insloc_eval.protocols import LINEAR_LOGISTIC, PATCHES_LINEAR, PATCHES_RELOCATE, PROTOCOLS, find_protocols
from insloc_hub.errors import UnknownName


def test_prose_is_not_in_the_hash_and_every_number_is() -> None:
    assert replace(PATCHES_LINEAR, about="other words").hash() == PATCHES_LINEAR.hash()
    assert replace(PATCHES_LINEAR, grid=7).hash() != PATCHES_LINEAR.hash()
    assert replace(PATCHES_RELOCATE, edge=0.2).hash() != PATCHES_RELOCATE.hash()


def test_other_arithmetic_is_another_protocol() -> None:
    assert len({LINEAR_LOGISTIC.hash(), LINEAR_LOGISTIC.hash("bf16")}) == 2


@pytest.mark.parametrize(
    ("tasks", "titles"),
    [
        ([], []),
        (["patches/relocate"], ["patches/relocate@1"]),
        (["linear/logistic@1", "linear/logistic"], ["linear/logistic@1"]),
    ],
)
def test_a_task_is_a_family_or_a_name_with_or_without_its_version(tasks: list[str], titles: list[str]) -> None:
    assert [protocol.title for protocol in find_protocols(tasks)] == titles


def test_a_family_means_all_of_its_newest_protocols_but_those_asked_by_name_only() -> None:
    for family in sorted({protocol.family for protocol in PROTOCOLS}):
        assert find_protocols([family]) == [p for p in PROTOCOLS if p.family == family and p.by_family]


def test_how_far_a_protocol_was_run_begins_with_one_of_three_words() -> None:
    assert replace(PATCHES_LINEAR, ran="full: tiny-imagenet").hash() == PATCHES_LINEAR.hash()
    with pytest.raises(ValueError, match="never, smoke, full"):
        replace(PATCHES_LINEAR, ran="a bit")


@pytest.mark.parametrize(
    ("task", "near"),
    [("linaer", "linear"), ("patches/relocat", "patches/relocate"), ("patches/linear@2", "patches/linear@1"), ("", None)],
)
def test_an_unknown_task_is_refused_with_the_nearest(task: str, near: str | None) -> None:
    with pytest.raises(UnknownName, match="insloc-eval ls") as caught:
        find_protocols([task])
    assert near is None or near in caught.value.near


@pytest.mark.parametrize(("median", "side"), [(64, 128), (96, 128), (97, 256), (500, 256)])
def test_small_images_are_judged_at_128_px_and_others_at_256(median: float, side: int) -> None:
    assert PATCHES_RELOCATE.input_px(median) == side
