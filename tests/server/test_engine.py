"""The compute thread, without HTTP: queue, room, pings, and what it survives."""

import time
from concurrent.futures import wait

import pytest
import torch

from insloc_hub.errors import InslocError
from insloc_server.engine import Engine
from insloc_server.problems import Refusal


@pytest.fixture
def start(make_settings):
    """Starts engines, and ends them after the test."""
    engines = []

    def start(extractor, **changes):
        engine = Engine(extractor, make_settings(**changes))
        engine.start()
        engine.warm.result(30)
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()
        assert not engine._compute.threads[0].is_alive()


def pixels(h=40, w=56, seed=0):
    return torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def want(engine, *outputs, transform="whole:32"):
    return engine.want(outputs or None, transform, None, "regions" in outputs)


def test_a_future_gives_the_library_s_numbers(start, extractor):
    engine = start(extractor)
    images = [pixels(seed=1), pixels(60, 44, seed=2)]
    boxes = [[[1, 2, 30, 30]], [[0, 0, 44, 60], [5, 5, 9, 9]]]
    answer = engine.submit(images, boxes, want(engine, "pooled", "map", "regions")).result(30)
    wanted = extractor(images, boxes=boxes, outputs=["pooled", "map", "regions"], transform="whole:32")
    for i in range(2):
        assert torch.allclose(answer.tensors[i]["pooled"], wanted.pooled[i], atol=1e-5)
        assert torch.allclose(answer.tensors[i]["map"], wanted.map[i], atol=1e-5)
        assert torch.allclose(answer.tensors[i]["regions"], wanted.regions[i], atol=1e-5)
    engine.ping().result(30)
    assert engine.in_work == 0 and answer.infer_s > 0


def test_a_long_request_is_computed_in_batches_with_equal_results(start, gated):
    extractor, gate = gated
    engine = start(extractor, batch_images=2)
    images = [pixels(seed=i) for i in range(5)]
    before = gate.forwards
    answer = engine.submit(images, None, want(engine)).result(30)
    assert gate.forwards - before == 3  # 2 + 2 + 1
    alone = [engine.submit([image], None, want(engine)).result(30).tensors[0]["pooled"] for image in images]
    assert torch.allclose(torch.stack([one["pooled"] for one in answer.tensors]), torch.stack(alone), atol=1e-5)


def test_one_forward_feeds_all_outputs(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    before = gate.forwards
    engine.submit([pixels()], [[[0, 0, 20, 20]]], want(engine, "pooled", "map", "regions")).result(30)
    assert gate.forwards - before == 1


def test_a_full_house_refuses_and_says_when_to_come_again(start, gated):
    extractor, gate = gated
    engine = start(extractor, queue_images=3)
    gate.shut()
    waiting = [engine.submit([pixels()] * 2, None, want(engine)), engine.submit([pixels()], None, want(engine))]
    with pytest.raises(Refusal) as caught:
        engine.submit([pixels()], None, want(engine))
    assert caught.value.code == "overloaded" and 1 <= caught.value.facts["retry_after"] <= 30
    gate.open.set()
    wait(waiting, 30)
    engine.ping().result(30)  # what was to be given back is
    assert engine.in_work == 0
    engine.submit([pixels()], None, want(engine)).result(30)


def test_an_empty_house_takes_a_request_of_any_size(start, extractor):
    engine = start(extractor, queue_images=1)
    assert len(engine.submit([pixels()] * 3, None, want(engine)).result(30).tensors) == 3


def test_a_place_is_given_back_once(start, extractor):
    engine = start(extractor)
    place = engine.take_place(5)
    assert engine.in_work == 5
    place.release()
    place.release()
    assert engine.in_work == 0


def test_nothing_is_queued_of_a_request_with_a_bad_box(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    before = gate.forwards
    with pytest.raises(Refusal, match="box 1 of image 1"):
        engine.submit([pixels(), pixels()], [[], [[0, 0, 9, 9], [9, 0, 9, 9]]], want(engine, "regions"))
    engine.ping().result(30)
    assert (engine.in_work, gate.forwards) == (0, before)


def test_a_request_that_fails_in_the_model_fails_alone(start, broken):
    engine = start(broken)
    black = torch.zeros(3, 40, 40, dtype=torch.uint8)
    futures = [engine.submit([image], None, want(engine)) for image in (pixels(seed=1), black, pixels(seed=2))]
    wait(futures, 30)
    assert [type(future.exception()) for future in futures] == [type(None), Refusal, type(None)]
    assert futures[1].exception().code == "inference_failed"
    engine.ping().result(30)


def test_a_cancelled_request_is_not_computed(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    gate.shut()
    first = engine.submit([pixels()], None, want(engine))
    assert gate.reached.wait(30)
    second = engine.submit([pixels()], None, want(engine))
    before = gate.forwards
    assert second.cancel()
    gate.open.set()
    first.result(30)
    engine.ping().result(30)
    assert (gate.forwards, engine.in_work) == (before, 0)


def test_what_has_no_time_left_is_not_computed(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    gate.shut()
    first = engine.submit([pixels()], None, want(engine))
    assert gate.reached.wait(30)
    place = engine.take_place(1, within_s=0.05)
    second = engine.submit([pixels()], None, want(engine), place)
    before = gate.forwards
    time.sleep(0.06)
    gate.open.set()
    first.result(30)
    with pytest.raises(Refusal) as caught:
        second.result(30)
    assert (caught.value.code, gate.forwards) == ("deadline_exceeded", before)


def test_a_client_may_ask_for_less_time_but_not_for_more_than_there_is(start, extractor):
    engine = start(extractor, deadline_s=5, max_deadline_s=8)
    now = time.monotonic()
    ends = [engine.take_place(1, within_s=asked).expires - now for asked in (None, 1, 100)]
    assert ends == pytest.approx([5, 1, 8], abs=0.5)


def test_a_polite_client_s_image_is_next_however_many_a_greedy_one_has_sent(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    engine.submit([pixels()], None, want(engine), engine.take_place(1, "polite")).result(30)
    gate.shut()
    greedy = [engine.submit([pixels()], None, want(engine), engine.take_place(1, "greedy")) for _ in range(12)]
    assert gate.reached.wait(30)
    polite = engine.submit([pixels()], None, want(engine), engine.take_place(1, "polite"))
    order = []
    for name, future in [("polite", polite), *(("greedy", one) for one in greedy)]:
        future.add_done_callback(lambda _, name=name: order.append(name))
    gate.open.set()
    wait([polite, *greedy], 30)
    assert order.index("polite") == 1


@pytest.mark.parametrize("mates", [1, 4, 7])
def test_the_company_of_an_image_does_not_change_its_vectors(start, gated, mates):
    extractor, gate = gated
    engine = start(extractor, batch_images=8)
    ask = want(engine, "pooled", "regions")
    image, boxes = pixels(seed=9), [[3, 4, 30, 33]]
    alone = engine.submit([image], [boxes], ask).result(30).tensors[0]
    gate.shut()
    first = engine.submit([pixels()], [boxes], ask)
    assert gate.reached.wait(30)
    others = [engine.submit([pixels(seed=i)], [boxes], ask) for i in range(mates)]
    ours = engine.submit([image], [boxes], ask)
    before = gate.forwards
    gate.open.set()
    wait([first, ours, *others], 30)
    assert gate.forwards == before + 1
    for name, vectors in ours.result().tensors[0].items():
        assert float(torch.cosine_similarity(vectors.flatten(), alone[name].flatten(), dim=0)) >= 0.999999


def test_a_deterministic_answer_is_the_library_s_bit_for_bit_in_any_company(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    image, boxes = pixels(seed=9), [[3, 4, 30, 33]]
    wanted = extractor([image], boxes=[boxes], outputs=["pooled", "map", "regions"], transform="whole:32")
    ask = engine.want(["pooled", "map", "regions"], "whole:32", None, True, deterministic=True)
    gate.shut()
    first = engine.submit([pixels()], None, want(engine))
    assert gate.reached.wait(30)
    same = [engine.submit([image], [boxes], ask) for _ in range(3)]
    before = gate.forwards
    gate.open.set()
    wait([first, *same], 30)
    assert gate.forwards == before + 3
    for future in same:
        got = future.result().tensors[0]
        assert torch.equal(got["pooled"], wanted.pooled[0]) and torch.equal(got["map"], wanted.map[0])
        assert torch.equal(got["regions"], wanted.regions[0])


def test_with_partial_bad_images_and_boxes_keep_their_place_and_others_their_answer(start, broken):
    engine = start(broken)
    black = torch.zeros(3, 40, 40, dtype=torch.uint8)
    images = [pixels(seed=1), Refusal("image_truncated", "cut short", index=1), black, pixels(seed=2)]
    boxes = [[[0, 0, 9, 9]], [[0, 0, 9, 9]], [[0, 0, 9, 9]], [[9, 9, 0, 0]]]
    ask = engine.want(["pooled", "regions"], "whole:32", None, True, partial=True)
    answer = engine.submit(images, boxes, ask).result(30)
    codes = [error and error.code for error in answer.errors]
    assert codes == [None, "image_truncated", "inference_failed", "bad_box"]
    assert [sorted(one) for one in answer.tensors] == [["pooled", "regions"], [], [], []]
    with pytest.raises(Refusal, match="cut short"):
        engine.submit(images, boxes, engine.want(["pooled", "regions"], "whole:32", None, True))
    assert engine.in_work == 0


def test_the_bytes_of_network_inputs_are_bounded_and_given_back(start, gated):
    extractor, gate = gated
    one = 4 * 3 * 32 * 64  # whole:32 of a 40 x 56 image, padded
    engine = start(extractor, queue_bytes=2 * one)
    gate.shut()
    first, second = (engine.submit([pixels()], None, want(engine)) for _ in range(2))
    with pytest.raises(Refusal) as caught:
        engine.submit([pixels()], None, want(engine))
    assert caught.value.code == "overloaded" and engine.room.in_work.size == 2 * one
    gate.open.set()
    wait([first, second], 30)
    engine.ping().result(30)  # what was to be given back is
    assert (engine.room.in_work.images, engine.room.in_work.size) == (0, 0)


def test_a_ping_is_answered_between_two_jobs_not_after_all(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    gate.shut()
    jobs = [engine.submit([pixels()], None, want(engine))]
    assert gate.reached.wait(30)
    jobs += [engine.submit([pixels()], None, want(engine)) for _ in range(2)]
    ping = engine.ping()
    time.sleep(0.05)
    assert not ping.done() and engine.oldest_s() > 0.04
    order = []
    for name, future in [("ping", ping), *((f"job {i}", job) for i, job in enumerate(jobs))]:
        future.add_done_callback(lambda _, name=name: order.append(name))
    gate.open.set()
    wait([ping, *jobs], 30)
    assert order.index("ping") < order.index("job 1")


def test_a_closed_engine_refuses_what_waits_and_what_comes(start, gated):
    extractor, gate = gated
    engine = start(extractor)
    gate.shut()
    at_work = engine.submit([pixels()], None, want(engine))
    assert gate.reached.wait(30)
    waiting = engine.submit([pixels()], None, want(engine))
    gate.open.set()
    engine.close()
    assert len(at_work.result(30).tensors) == 1
    if waiting.exception(30) is not None:  # the thread may have been faster
        assert waiting.exception().code == "not_ready"
    for call in (lambda: engine.submit([pixels()], None, want(engine)), engine.ping):
        with pytest.raises(Refusal) as caught:
            call()
        assert caught.value.code == "not_ready"


def test_an_engine_that_was_not_started_refuses(extractor, make_settings):
    engine = Engine(extractor, make_settings())
    with pytest.raises(Refusal, match="does not run"):
        engine.submit([pixels()], None, want(engine))
    engine.close()


def test_what_is_wanted_is_put_in_order_and_filled_in(start, extractor):
    engine = start(extractor)
    assert engine.want(["regions", "pooled", "pooled"], None, None, True).outputs == ("pooled", "regions")
    plain = engine.want(None, None, None, False)
    assert (plain.outputs, plain.transform, plain.stride) == (("pooled",), "eval", 16)
    boxed = engine.want(None, None, None, True)
    assert (boxed.outputs, boxed.transform) == (("pooled", "regions"), "whole")


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        ((["regions"], None, None, False), "needs boxes"),
        ((["map"], None, None, True), "boxes"),
        ((None, "hole", None, False), "unknown transform 'hole'"),
        ((None, "whole:-3", None, False), "unknown transform"),
        ((None, "whole:64\n", None, False), "unknown transform"),
        ((None, None, 7, False), r"no map of stride 7; it has \[2, 4, 8, 16, 32\]"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(start, extractor, ask, reason):
    engine = start(extractor)
    with pytest.raises(InslocError, match=reason):
        engine.want(*ask)


def test_an_answer_that_would_be_too_large_is_refused_from_the_shapes(start, gated):
    extractor, gate = gated
    exact = 4 * 256 * 4 * 4  # float32, stride 16 of a 64 px input
    for most, fits in ((exact, True), (exact - 1, False)):
        engine = start(extractor, max_answer_bytes=most)
        before = gate.forwards
        if fits:
            assert engine.submit([pixels(64, 64)], None, want(engine, "map", transform="whole:64")).result(30)
        else:
            with pytest.raises(Refusal) as caught:
                engine.submit([pixels(64, 64)], None, want(engine, "map", transform="whole:64"))
            assert (caught.value.code, gate.forwards) == ("answer_too_large", before)


def test_network_inputs_are_limited_for_an_image_and_for_a_request(start, extractor):
    engine = start(extractor, max_input_pixels=20_000, max_request_input_pixels=30_000)
    ask = engine.want(None, "whole:96", None, False)
    engine.submit([pixels(50, 50)] * 3, None, ask).result(30)  # 3 x 9,216
    with pytest.raises(Refusal, match="network inputs have over 30,000 pixels"):
        engine.submit([pixels(50, 50)] * 4, None, ask)
    with pytest.raises(Refusal, match="whole:9999 makes over 20,000 pixels"):
        engine.submit([pixels(50, 50)], None, engine.want(None, "whole:9999", None, False))
