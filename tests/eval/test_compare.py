"""Comparisons: paired on the same images, refused on others, said in words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from insloc_eval.compare import NotComparable, compare, compare_models, sentences, verdict
from insloc_eval.stats import Difference, paired_difference
from insloc_eval.store import Judged, outcomes_of, save
from insloc_hub.records import DataFacts

MakeRecord = Callable[..., Judged]
DATA = DataFacts(name="photos", split="test of train/ and val/", fingerprint="other", n=4)


def test_the_difference_is_the_paired_one_with_the_sign_of_first_minus_second(make_record: MakeRecord) -> None:
    first, second = [1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    found = compare(make_record("a", first), make_record("b", second)).differences["top1"]
    assert found == paired_difference(np.array(first), np.array(second))
    assert found.value == 0.5


def test_images_are_matched_by_key_where_one_model_missed_some(make_record: MakeRecord) -> None:
    first = make_record("a", [1.0, 0.0, 1.0, 1.0])
    second = Judged(
        result=make_record("b", [0.0, 0.0, 1.0]).result.__class__(
            **{**_fields(make_record("b", [1.0, 1.0, 0.0, 0.0])), "metrics": make_record("b", [0.0, 0.0, 1.0]).result.metrics}
        ),
        outcomes=outcomes_of(("3.png", "1.png", "0.png"), top1=np.array([0.0, 0.0, 1.0])),
    )
    found = compare(first, second).differences["top1"]
    assert found.n == 3
    assert found.value == pytest.approx(1 / 3)  # 0: 1 - 1, 1: 0 - 0, 3: 1 - 0


def _fields(judged: Judged) -> dict[str, object]:
    return {name: getattr(judged.result, name) for name in judged.result.__slots__}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "linear/logistic@2"}, "protocols differ"),
        ({"protocol_hash": "ef" * 32}, "numbers of linear/logistic@1 differ"),
        ({"data": DATA}, "images differ"),
        ({"eval_seed": 1}, "seeds differ, 0 and 1"),
        ({"not_applicable": "no map of stride 16"}, "not applicable to b .no map of stride 16"),
    ],
)
def test_records_of_different_questions_are_not_comparable_and_the_reason_is_given(
    make_record: MakeRecord, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    a, b = make_record("a", [1, 0, 1, 0]), make_record("b", [1, 0, 0, 0], **changes)
    with pytest.raises(NotComparable, match=reason):
        compare(a, b)
    save(tmp_path, a)
    save(tmp_path, b)
    with pytest.raises(NotComparable, match=reason):
        compare_models(tmp_path, "a", "b")


def test_a_model_is_not_compared_with_itself(make_record: MakeRecord, tmp_path: Path) -> None:
    save(tmp_path, make_record("a", [1, 0]))
    with pytest.raises(NotComparable, match="one record"):
        compare_models(tmp_path, "a", "a")


def test_all_stored_protocols_of_two_models_are_compared(make_record: MakeRecord, tmp_path: Path) -> None:
    for spec in ("a", "b"):
        save(tmp_path, make_record(spec, [1, 0, 1, 0]))
        save(tmp_path, make_record(spec, [1, 0, 1, 1], protocol="patches/linear@1", task="patches"))
    found = compare_models(tmp_path, "a", "b")
    assert sorted(c.first.protocol for c in found) == ["linear/logistic@1", "patches/linear@1"]
    assert {c.second.model.spec for c in found} == {"b"}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.1, 0.3, "no difference shown"), (0.0, 0.2, "no difference shown"), (0.1, 0.3, "higher"), (-0.3, -0.1, "lower")],
)
def test_the_verdict_follows_the_interval(low: float, high: float, words: str) -> None:
    gap = Difference(value=(low + high) / 2, low=low, high=high, smallest=0.123, n=9)
    text = verdict("top1", gap, "share")
    assert words in text and "smallest detectable: 0.1230" in text and f"{low:+.4f}" in text


def test_the_text_says_that_one_seed_is_one_seed(make_record: MakeRecord) -> None:
    lines = sentences(compare(make_record("a", [1, 0, 1, 0]), make_record("b", [1, 0, 0, 0])))
    assert "a (" in lines[0] and "minus b (" in lines[0]
    assert "One pretraining seed" in lines[-1]
