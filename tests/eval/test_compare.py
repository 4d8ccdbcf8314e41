"""Comparisons: paired on the same images, refused on others, said in words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from insloc_eval.compare import NotComparable, compare, compare_models, sentences, verdict
from insloc_eval.stats import ONE_SEED, Difference, difference, over_seeds
from insloc_eval.store import Judged, outcomes_of, save
from insloc_hub.records import DataFacts, ModelFacts

MakeRecord = Callable[..., Judged]
DATA = DataFacts(name="photos", split="test of train/ and val/", fingerprint="other", n=4)


def test_the_difference_is_the_paired_one_with_the_sign_of_first_minus_second(make_record: MakeRecord) -> None:
    first, second = [1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    found = compare((make_record("a", first),), (make_record("b", second),)).differences["top1"]
    assert found == difference(np.array([first]), np.array([second]))
    assert found.value == 0.5


def test_images_are_matched_by_key_where_one_model_missed_some(make_record: MakeRecord) -> None:
    first = make_record("a", [1.0, 0.0, 1.0, 1.0])
    second = Judged(
        result=make_record("b", [0.0, 0.0, 1.0]).result.__class__(
            **{**_fields(make_record("b", [1.0, 1.0, 0.0, 0.0])), "metrics": make_record("b", [0.0, 0.0, 1.0]).result.metrics}
        ),
        outcomes=outcomes_of(("3.png", "1.png", "0.png"), top1=np.array([0.0, 0.0, 1.0])),
    )
    found = compare((first,), (second,)).differences["top1"]
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
        compare((a,), (b,))
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
    assert sorted(c.protocol for c in found) == ["linear/logistic@1", "patches/linear@1"]
    assert {c.second[0].model.spec for c in found} == {"b"}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.1, 0.3, "no difference shown"), (0.0, 0.2, "no difference shown"), (0.1, 0.3, "higher"), (-0.3, -0.1, "lower")],
)
def test_the_verdict_follows_the_interval(low: float, high: float, words: str) -> None:
    gap = Difference(value=(low + high) / 2, low=low, high=high, smallest=0.123, n=9, seeds=(1, 1), seed_sd=0.0, image_sd=0.1)
    text = verdict("top1", gap, "share")
    assert words in text and "smallest detectable: 0.1230" in text and f"{low:+.4f}" in text


def test_the_text_says_that_one_seed_is_one_seed(make_record: MakeRecord) -> None:
    lines = sentences(compare((make_record("a", [1, 0, 1, 0]),), (make_record("b", [1, 0, 0, 0]),)))
    assert "a (" in lines[0] and "minus b (" in lines[0]
    assert "One pretraining seed" in lines[-1]


def arm(make_record: MakeRecord, name: str, outcomes: np.ndarray, **changes: object) -> tuple[Judged, ...]:
    """One record for each row of outcomes, seeds 0, 1, ..."""
    facts = [
        ModelFacts(spec=f"runs/{name}-{s}", arch="resnet18", sha256=f"{name}{s}", recipe=name) for s in range(len(outcomes))
    ]
    return tuple(
        make_record("", list(row), model=facts[s], **{"pretrain_seed": s, **changes}) for s, row in enumerate(outcomes)
    )


def two(make_record: MakeRecord, **changes: object) -> tuple[tuple[Judged, ...], tuple[Judged, ...], np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 2, (3, 20)).astype(float), generator.integers(0, 2, (2, 20)).astype(float)
    return arm(make_record, "ours", x, **changes), arm(make_record, "theirs", y, **changes), x, y


def same(found: Difference, known: Difference) -> bool:
    """Equal up to the last bits, which hang on the order in which a Python adds."""
    numbers = ("value", "low", "high", "smallest", "seed_sd", "image_sd")
    close = all(getattr(found, name) == pytest.approx(getattr(known, name), rel=1e-12) for name in numbers)
    return close and (found.n, found.seeds) == (known.n, known.seeds)


def test_arms_of_several_seeds_are_compared_unpaired_over_seeds_and_paired_over_images(make_record: MakeRecord) -> None:
    a, b, x, y = two(make_record)
    found = compare(a, b)
    assert same(found.differences["top1"], difference(x, y))
    for ours, known in zip(found.alone["top1"], (over_seeds(x, "share"), over_seeds(y, "share")), strict=True):
        assert (ours.value, ours.low, ours.high) == pytest.approx((known.value, known.low, known.high))
    text = "\n".join(sentences(found))
    assert "3 and 2 pretraining seeds" in text and ONE_SEED not in text and "20 images, 3 and 2 seeds" in text


def test_arms_are_formed_by_patterns_and_lists_of_names(make_record: MakeRecord, tmp_path: Path) -> None:
    a, b, x, y = two(make_record)
    for judged in (*a, *b):
        save(tmp_path, judged)
    whole = difference(x, y)
    for first in ("runs/ours-*", "runs/ours-0,runs/ours-1,runs/ours-2", ",".join(j.result.id[:6] for j in a)):
        (found,) = compare_models(tmp_path, first, "runs/theirs-?")
        assert same(found.differences["top1"], whole)
    (found,) = compare_models(tmp_path, "runs/ours-*", "runs/theirs-0")
    assert found.differences["top1"].seeds == (3, 1) and sentences(found)[-1].strip() == ONE_SEED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pretrain_seed": 1}, "more than one of them has pretraining seed 1"),
        ({"model": ModelFacts(spec="x", arch="resnet18", sha256="x", recipe="another")}, "more than one recipe .another, ours"),
        ({"model": ModelFacts(spec="x", arch="resnet50", sha256="x", recipe="ours")}, "more than one architecture"),
        ({"eval_seed": 3}, "evaluation seeds differ"),
    ],
)
def test_models_that_are_no_seeds_of_one_recipe_are_no_arm(
    make_record: MakeRecord, change: dict[str, object], reason: str
) -> None:
    a, b, _, _ = two(make_record)
    odd = make_record("", list(a[0].outcomes["top1"]), **{"model": a[2].result.model, "pretrain_seed": 2, **change})
    with pytest.raises(NotComparable, match=reason):
        compare((*a[:2], odd), b)


def test_one_record_is_not_in_both_arms(make_record: MakeRecord) -> None:
    a, _, _, _ = two(make_record)
    with pytest.raises(NotComparable, match="the same weights"):
        compare(a, a[1:])


def test_seeds_that_no_record_knows_are_said(make_record: MakeRecord) -> None:
    a, b, _, _ = two(make_record, pretrain_seed=None)
    assert "no record says so: runs/ours-0, runs/ours-1" in sentences(compare(a, b))[-1]


def test_images_without_an_outcome_of_a_metric_are_left_out_of_that_metric(make_record: MakeRecord) -> None:
    a, b, x, y = two(make_record)
    b[1].outcomes["top1"][4] = np.nan
    found = compare(a, b).differences["top1"]
    assert found == difference(np.delete(x, 4, axis=1), np.delete(y, 4, axis=1))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([0.5, 0.5, 0.4, 0.6], [0.4, 0.4, 0.4, 0.4], False),  # higher by both
        ([0.5, 0.5, 0.2, 0.2], [0.4, 0.4, 0.4, 0.4], True),
        ([0.5, 0.5, 0.4, 0.4], [0.4, 0.4, 0.4, 0.4], False),  # equal is no sign
    ],
)
def test_features_that_order_two_arms_in_opposite_ways_are_said_in_words(
    make_record: MakeRecord, first: list[float], second: list[float], said: bool
) -> None:
    """Two values of top1 and of top1_stride16 each, on two mosaics."""

    def record(spec: str, values: list[float]) -> Judged:
        metrics = {
            name: over_seeds(np.array([rows]), "share") for name, rows in (("top1", values[:2]), ("top1_stride16", values[2:]))
        }
        judged = make_record(spec, values[:2], protocol="regions/mosaic@1", metrics=metrics)
        rows = {"top1": np.array(values[:2]), "top1_stride16": np.array(values[2:])}
        return Judged(result=judged.result, outcomes=outcomes_of(("A/0000", "A/0001"), **rows))

    lines = sentences(compare((record("a", first),), (record("b", second),)))
    found = [line for line in lines if "the sign differs between features" in line]
    assert bool(found) is said
    assert not said or "higher by top1, lower by top1_stride16" in found[0]
