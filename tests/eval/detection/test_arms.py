"""Arms of detectors: refused where they are not equal, each difference named; AP compared on the same resampled images."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scored import case

from insloc_eval.compare import NotComparable, compare, compare_models, sentences
from insloc_eval.detection.arms import what_differs
from insloc_eval.detection.decompose import lines, steps
from insloc_eval.detection.scores import UNIT, sampled_values, stored
from insloc_eval.detection.voc import match_voc
from insloc_eval.protocols.detection import GAINS, QUICK, QUICK_C4, Detection, adapted
from insloc_eval.set_metrics import Sampled, set_difference, set_metric
from insloc_eval.store import Judged, outcomes_of, save
from insloc_hub.errors import InslocError
from insloc_hub.records import DataFacts, ModelFacts, Result

IMAGES = 12
DATA = DataFacts(name="cells", split="train and test", fingerprint="ab", n=IMAGES)
OTHER = DataFacts(name="blood", split="train and test", fingerprint="cd", n=9)
Make = Callable[..., Judged]


@pytest.fixture(scope="module")
def scored() -> dict[int, dict[str, object]]:
    """Matches of four models on the same objects: detections taken away from the even ones."""
    samples, found = case(40, images=IMAGES)
    made = {}
    for number in range(4):
        keep = np.random.default_rng(number).random(200) < (0.5 if number % 2 else 0.95)
        rows = [
            replace(one, boxes=one.boxes[k], scores=one.scores[k], labels=one.labels[k])
            for one in found
            for k in [keep[: len(one.boxes)]]
        ]
        made[number] = {"bbox:all": match_voc(samples, rows, 3)}
    return made


@pytest.fixture
def make(scored) -> Make:
    """make(spec, number, seed, protocol): a record of a detector."""

    def record(spec: str, number: int, seed: int = 0, protocol: Detection = QUICK, data: DataFacts = DATA, **more) -> Judged:
        matches = scored[number]
        sampled = sampled_values(matches, IMAGES)
        fields = {
            "task": "detection",
            "protocol": protocol.title,
            "protocol_hash": protocol.hash(),
            "model": ModelFacts(spec=spec, arch="resnet18", sha256=spec.encode().hex()),
            "data": data,
            "pretrain_seed": None,
            "eval_seed": seed,
            "metrics": {name: set_metric([one], IMAGES, UNIT) for name, one in sampled.items()},
            "settings": protocol.numbers(),
            "env": {"precision": "fp32"},
        }
        keys = tuple(f"{i}.png" for i in range(IMAGES))
        return Judged(result=Result(**{**fields, **more}), outcomes=outcomes_of(keys, **stored(matches)))

    return record


def test_ap_is_compared_on_the_same_resampled_images_with_fine_tuning_seeds_unpaired(make, scored, tmp_path) -> None:
    a, b = (make("a", 0), make("a", 2, seed=1)), (make("b", 1), make("b", 3, seed=1))
    found = compare(a, b)
    numbers = [sampled_values(scored[n], IMAGES)["AP"] for n in range(4)]
    known = set_difference([numbers[0], numbers[2]], [numbers[1], numbers[3]], IMAGES)
    assert found.differences["AP"] == known and known.value > 5 and known.seeds == (2, 2)
    assert found.alone["AP"][0] == set_metric([numbers[0], numbers[2]], IMAGES, UNIT)
    for judged in (*a, *b):
        save(tmp_path, judged)
    (stored_one,) = compare_models(tmp_path, "a", "b")
    assert stored_one.differences["AP"] == known


def test_fine_tunings_of_one_network_among_several_are_one_seed_by_their_mean(make, scored) -> None:
    a = [make("a1", 0, pretrain_seed=1), make("a1", 2, seed=1, pretrain_seed=1), make("a2", 1, pretrain_seed=2)]
    b = [make("b", 1), make("b", 3, seed=1)]
    found = compare(tuple(a), tuple(b))
    numbers = [sampled_values(scored[n], IMAGES)["AP"] for n in range(4)]
    both = Sampled(whole=(numbers[0].whole + numbers[2].whole) / 2, drawn=(numbers[0].drawn + numbers[2].drawn) / 2)
    known = set_difference([both, numbers[1]], [numbers[1], numbers[3]], IMAGES)
    counted = set_difference([numbers[0], numbers[2], numbers[1]], [numbers[1], numbers[3]], IMAGES)
    gap = found.differences["AP"]
    assert gap.seeds == (2, 2) and (gap.value, gap.low) == pytest.approx((known.value, known.low))
    assert abs(gap.value - counted.value) > 1 and abs(gap.low - counted.low) > 1  # three equal rows would give another answer
    assert "3 and 2 fine-tunings of 2 and 1 networks (of several, the mean of each is one seed)" in sentences(found)[-1]
    assert sentences(found)[-1].endswith("not another pretraining of an arm with one network.")
    own = compare(tuple(a[::2]), (make("b1", 1, pretrain_seed=1), make("b2", 3, pretrain_seed=2)))
    assert sentences(own)[-1].endswith("and the pretraining seeds, of which each fine-tuning has its own.")


def test_what_could_have_been_shown_stands_first_and_what_the_intervals_cover_last(make) -> None:
    text = sentences(compare((make("a", 0), make("a", 2, seed=1)), (make("b", 1), make("b", 3, seed=1))))
    assert text[1].startswith("  AP: smallest detectable ") and "12 images, 2 and 2 seeds); measured +" in text[1]
    assert text[-1].endswith("cover their seeds (unpaired) and the test images, not another pretraining.")
    assert "One fine-tuning an arm" in sentences(compare((make("a", 0),), (make("b", 1),)))[-1]


@pytest.mark.parametrize(("ap50", "word"), [(4.9, "no verdict, both arms stay under AP50 5"), (5.1, "no difference shown")])
def test_there_is_no_verdict_where_neither_arm_detects(make, ap50, word) -> None:
    found = compare((make("a", 0),), (make("b", 1),))
    pair = found.alone["AP50"]
    weak = {**found.alone, "AP50": (replace(pair[0], value=ap50), replace(pair[1], value=1.0))}
    assert word in sentences(replace(found, alone=weak))[1]


def test_a_number_that_no_sample_of_the_images_changes_gets_no_verdict(make) -> None:
    found = compare((make("a", 0),), (make("b", 1),))
    still = replace(found.differences["AP"], value=0.0, low=0.0, high=0.0, smallest=0.0)
    text = sentences(replace(found, differences={"AP": still}))[1]
    assert text == "  AP: every sample of the 12 images gives +0.00 points: no interval, no verdict"


@pytest.mark.parametrize(
    ("protocol", "more", "named"),
    [
        (QUICK_C4, {}, ["the head differs (variant fpn and c4)", "the norm differs (extra_norm False and True)"]),
        (adapted(QUICK, extra_norm=True), {}, ["the norm differs (extra_norm False and True)"]),
        (adapted(QUICK, init_parts="trunk+fpn"), {}, ["the initialised parts differ (init_parts trunk and trunk+fpn)"]),
        (adapted(QUICK, steps=300), {}, ["the schedule differs (", "steps 150 and 300", "lr_drops [110, 140] and [220, 280]"]),
        (adapted(QUICK, batch=2), {}, ["the schedule differs (batch 4 and 2, lr 0.005 and 0.0025"]),
        (QUICK, {"data": OTHER}, ["the data differ (cells (12) and blood (9))"]),
        (replace(QUICK, train_share=0.1), {}, ["the data differ (train_share 1.0 and 0.1)"]),
        (replace(QUICK, score_floor=0.1), {}, ["the protocol differs (score_floor 0.05 and 0.1)"]),
        (QUICK, {"protocol_hash": QUICK.hash("bf16"), "env": {"precision": "bf16"}}, ["the precision differs (fp32 and bf16)"]),
        (
            adapted(QUICK, steps=300, init_parts="trunk+fpn", extra_norm=True),
            {"data": OTHER},
            ["the schedule", "the initialised parts", "the norm", "the data"],
        ),
    ],
)
def test_arms_that_are_not_equal_are_refused_and_each_difference_is_named(make, tmp_path, protocol, more, named) -> None:
    a, b = make("a", 0), make("b", 1, protocol=protocol, **more)
    for words in named:
        assert words in what_differs(a.result, b.result)
    with pytest.raises(NotComparable):
        compare((a,), (b,))
    save(tmp_path, a)
    save(tmp_path, b)
    with pytest.raises(NotComparable) as told:
        compare_models(tmp_path, "a", "b")
    assert all(words in str(told.value) for words in named)


def test_the_same_fine_tuning_twice_is_no_arm(make) -> None:
    twin = make("a", 2, pretrain_seed=5)
    with pytest.raises(NotComparable, match="same weights and fine-tuning seed"):
        compare((make("a", 0), twin), (make("b", 1),))


def test_a_gain_is_split_into_trunk_neck_head_and_norm(make, tmp_path) -> None:
    for number, (parts, norm) in enumerate(GAINS):
        save(tmp_path, make("ours", number, protocol=adapted(QUICK, init_parts=parts, extra_norm=norm)))
    save(tmp_path, make("random:resnet18", 3))
    found = steps(tmp_path, "ours", "random:resnet18")
    assert [step.name for step in found] == ["trunk", "neck", "head", "norm", "all four"]
    arms = [(one.result.settings["init_parts"], one.result.settings["extra_norm"]) for step in found for one in step.first]
    assert arms == [*GAINS, GAINS[-1]]
    assert found[0].second[0].result.model.spec == "random:resnet18" == found[-1].second[0].result.model.spec
    assert all(step.second[0].result.id == before.first[0].result.id for before, step in pairwise(found[:4]))
    text = lines(found)
    assert text[1].startswith("  trunk,    AP: smallest detectable") and "thing by thing" in text[0]


def test_a_split_lacking_an_arm_or_with_another_schedule_is_refused(make, tmp_path) -> None:
    for number, (parts, norm) in enumerate(GAINS[:3]):
        save(tmp_path, make("ours", number, protocol=adapted(QUICK, init_parts=parts, extra_norm=norm)))
    save(tmp_path, make("random:resnet18", 3))
    with pytest.raises(InslocError, match=r"no FPN record with --init-parts trunk.fpn.head and the extra norm on"):
        steps(tmp_path, "ours", "random:resnet18")
    save(tmp_path, make("ours", 3, protocol=adapted(QUICK, init_parts="trunk+fpn+head", extra_norm=True, steps=300)))
    with pytest.raises(InslocError, match="lr_drops, scaled, steps, warmup_steps differ"):
        steps(tmp_path, "ours", "random:resnet18")
