"""The protocols that fine-tune detectors: a changed number is a new version; what a user scales is another protocol."""

from dataclasses import replace

import pytest

from insloc_eval.protocols.detection import COCO_FPN_1X, INIT_PARTS, QUICK, QUICK_C4, RECORDS, adapted
from insloc_hub.errors import InslocError

FROZEN = {
    "detection/voc-c4-24k@1": "0c60c05bfa9bff2e",
    "detection/coco-c4-1x@1": "8c9f442d2e9e785e",
    "detection/coco-c4-2x@1": "bbdd0d3609dfca36",
    "detection/coco-fpn-1x@1": "71c192c2e6c04c33",
    "detection/coco-fpn-2x@1": "eafadb68bcb1353a",
    "detection/coco-low-1@1": "69058a7b9560b072",
    "detection/coco-low-2@1": "d9a2956192f3a3d1",
    "detection/coco-low-5@1": "7c24bd3dce2ea7b7",
    "detection/coco-low-10@1": "977b16acdf23d90d",
    "detection/tin-low-1@1": "ac5cdd1d0b92f22a",
    "detection/tin-low-10@1": "f622854b58eea64e",
    "detection/tin-low-100@1": "3e602929d69782c4",
    "detection/quick@1": "b5dfcb7b9e5f5944",
    "detection/quick-mask@1": "3eb9fb244299d4be",
    "detection/quick-c4@1": "52b6360f965b946e",
    "detection/quick-c4-mask@1": "194bb69386ff4689",
}


def test_a_protocol_keeps_its_numbers_as_long_as_it_keeps_its_version() -> None:
    assert {protocol.title: protocol.hash()[:16] for protocol in RECORDS} == FROZEN


@pytest.mark.parametrize("protocol", RECORDS, ids=lambda p: p.name)
def test_drops_lie_in_order_between_the_warm_up_and_the_end(protocol) -> None:
    marks = [protocol.warmup_steps, *protocol.lr_drops, protocol.steps]
    assert marks == sorted(set(marks))
    assert protocol.lr == pytest.approx(0.02 * protocol.batch / 16)  # the linear rule, in ours too


def test_quick_is_600_image_visits() -> None:
    assert QUICK.steps * QUICK.batch == 600


def test_a_batch_scales_the_rate_and_steps_scale_drops_and_warm_up() -> None:
    small = adapted(COCO_FPN_1X, batch=4)
    assert (small.batch, small.lr, small.steps, small.lr_drops) == (4, 0.005, 90_000, (60_000, 80_000))
    short = adapted(COCO_FPN_1X, steps=900)
    assert (short.lr, short.steps, short.lr_drops, short.warmup_steps) == (0.02, 900, (600, 800), 10)
    assert small.title == short.title == "detection/coco-fpn-1x@1+scaled"
    assert len({COCO_FPN_1X.hash(), small.hash(), short.hash()}) == 3


def test_no_more_batches_than_steps_give_the_statistics_of_a_short_try() -> None:
    short, long = adapted(QUICK, steps=3), adapted(QUICK, steps=2 * QUICK.steps)
    assert (short.precise_bn_batches, long.precise_bn_batches) == (3, QUICK.precise_bn_batches)


def test_the_protocol_s_own_batch_and_steps_scale_nothing() -> None:
    assert adapted(QUICK, batch=QUICK.batch, steps=QUICK.steps, init_parts="trunk", extra_norm=False) == QUICK


def test_initialised_parts_and_the_extra_norm_are_in_the_hash_and_not_in_the_title() -> None:
    arms = [adapted(QUICK, init_parts=parts, extra_norm=norm) for parts in INIT_PARTS for norm in (False, True)]
    assert len({arm.hash() for arm in arms}) == 6 and {arm.title for arm in arms} == {QUICK.title}


@pytest.mark.parametrize(
    ("protocol", "asked", "problem"),
    [
        (QUICK, {"batch": 0}, "--batch-size 0"),
        (QUICK, {"steps": -1}, "--steps -1"),
        (QUICK, {"init_parts": "neck"}, "trunk\\+fpn"),
        (QUICK_C4, {"init_parts": "trunk+fpn"}, "has no FPN"),
    ],
)
def test_what_no_detector_can_do_is_refused(protocol, asked, problem) -> None:
    with pytest.raises(InslocError, match=problem):
        adapted(protocol, **asked)


@pytest.mark.parametrize("field", ["variant", "init_parts", "metric"])
def test_an_unknown_choice_makes_no_protocol(field) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of"):
        replace(QUICK, **{field: "other"})
