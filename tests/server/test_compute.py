"""The thread: what a failing batch costs its company, and that nothing ends the loop."""

import threading

import pytest
import torch

from insloc_server.batcher import Batcher, Waiting
from insloc_server.compute import Compute, attempt
from insloc_server.jobs import Item, Job, Want
from insloc_server.problems import Refusal

WANT = Want(outputs=("pooled",), transform="eval", stride=16)


def item(value):
    return Item(input=torch.full((3, 2, 2), float(value)), size_wh=(2, 2), regions=None)


class Model:
    """Doubles each image's value; fails as told; notes the batches it was given."""

    def __init__(self, fails=lambda values: None):
        self.fails = fails
        self.batches = []

    def compute(self, jobs):
        values = [int(one.input[0, 0, 0]) for _, one in jobs]
        self.batches.append(values)
        error = self.fails(values)
        if error is not None:
            raise error
        return [{"pooled": torch.tensor([2.0 * value])} for value in values]


@pytest.fixture
def thread():
    compute = Compute(Batcher(8, joint=True))
    compute.start()
    yield compute
    compute.close()
    assert not compute.threads[0].is_alive()


def submitted(thread, model, values, want=WANT, expires=1e9, client=""):
    """A job of some values, all of which go into the queue together."""
    job = Job(tuple(item(value) for value in values), want)
    thread.add([entry(model, job, index, expires, client) for index in range(len(values))])
    return job.future


def entry(model, job, index, expires=1e9, client=""):
    return Waiting(
        model=model, client=client, key="k", since=job.since, expires=expires, gone=job.future.done, payload=(job, index)
    )


def pairs(values):
    jobs = [Job((item(value),), WANT) for value in values]
    return [(job, job.items[0]) for job in jobs]


def held(thread):
    """The thread stands still until the event is set."""
    reached, go = threading.Event(), threading.Event()
    thread.call(lambda: (reached.set(), go.wait(30)))
    assert reached.wait(30)
    return go


def outcome(future):
    error = future.exception(30)
    return error.code if error else [float(one["pooled"]) for one in future.result().tensors]


def test_a_failing_batch_is_run_again_one_by_one_and_only_the_guilty_one_fails(thread):
    model = Model(lambda values: RuntimeError("a kernel failed") if 3 in values else None)
    go = held(thread)
    futures = [submitted(thread, model, [value]) for value in range(1, 9)]
    go.set()
    assert [outcome(f) for f in futures] == [[2.0], [4.0], "inference_failed", [8.0], [10.0], [12.0], [14.0], [16.0]]
    assert model.batches == [[1, 2, 3, 4, 5, 6, 7, 8], *([value] for value in range(1, 9))]  # once


def test_out_of_memory_halves_the_batch_until_it_fits():
    model = Model(lambda values: RuntimeError("CUDA out of memory. Tried to allocate") if len(values) > 2 else None)
    jobs = pairs(range(5))
    assert [float(one["pooled"]) for one in attempt(model, jobs)] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert model.batches == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2], [3, 4]]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_an_image_for_which_memory_is_never_enough_is_told_so_and_others_are_served(error):
    model = Model(lambda values: error if 3 in values else None)
    outcomes = attempt(model, pairs((1, 2, 3, 4)))
    assert [one.code if isinstance(one, Refusal) else float(one["pooled"]) for one in outcomes] == [
        2.0,
        4.0,
        "out_of_memory",
        8.0,
    ]


def test_a_request_fails_with_its_guilty_image_and_the_rest_of_it_is_not_computed(thread):
    model = Model(lambda values: RuntimeError("no") if 0 in values else None)
    go = held(thread)
    future = submitted(thread, model, range(12))
    go.set()
    assert outcome(future) == "inference_failed"
    assert future.exception().facts["index"] == 0
    thread.call(lambda: None).result(30)
    assert [8, 9, 10, 11] not in model.batches


def test_a_request_that_takes_what_there_is_gets_the_error_in_its_place(thread):
    model = Model(lambda values: RuntimeError("no") if 1 in values else None)
    want = Want(outputs=("pooled",), transform="eval", stride=16, partial=True)
    answer = submitted(thread, model, [5, 1, 6], want).result(30)
    assert [sorted(one) for one in answer.tensors] == [["pooled"], [], ["pooled"]]
    assert [error and (error.code, error.facts["index"]) for error in answer.errors] == [None, ("inference_failed", 1), None]
    bad = Job((Refusal("image_truncated", "cut short"),), want)
    assert bad.future.result(0).errors[0].code == "image_truncated"  # nothing is left to wait for


def test_what_is_cancelled_or_expired_never_reaches_the_model(thread):
    model = Model()
    go = held(thread)
    cancelled, late, good = (submitted(thread, model, [value], expires=e) for value, e in ((1, 1e9), (2, 0.0), (3, 1e9)))
    assert cancelled.cancel()
    go.set()
    assert outcome(good) == [6.0] and outcome(late) == "deadline_exceeded"
    assert model.batches == [[3]]


def test_a_request_can_be_given_up_while_half_of_it_is_computed(thread):
    first, go = threading.Event(), threading.Event()

    def hold(values):
        first.set()
        assert go.wait(30)

    model = Model(hold)
    future = submitted(thread, model, range(20))
    assert first.wait(30) and future.cancel()
    go.set()
    thread.call(lambda: None).result(30)
    assert len(model.batches) == 1


def test_the_loop_outlives_whatever_a_model_or_a_call_does(thread):
    class Odd(Model):
        def compute(self, jobs):
            return super().compute(jobs)[1:]  # fewer outcomes than images: a bug of ours

    assert outcome(submitted(thread, Odd(), [1])) == "inference_failed"
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0).result(30)
    assert outcome(submitted(thread, Model(lambda values: KeyError("x")), [1, 2])) == "inference_failed"
    assert outcome(submitted(thread, Model(), [4])) == [8.0]


@pytest.fixture
def lanes():
    compute = Compute(Batcher(8, joint=False), lanes=2, cores=6)
    compute.start()
    yield compute
    compute.close()
    assert not any(thread.is_alive() for thread in compute.threads)


class Held(Model):
    """Says where and with how many cores it computes, and waits there."""

    def __init__(self):
        super().__init__()
        self.where, self.reached, self.go = [], threading.Semaphore(0), threading.Event()

    def compute(self, jobs):
        self.where.append((threading.current_thread().name.removeprefix("insloc-compute-"), torch.get_num_threads()))
        self.reached.release()
        assert self.go.wait(30)
        return super().compute(jobs)


def test_two_lanes_compute_at_the_same_time_and_share_the_cores_and_what_waits(lanes):
    model, told = Held(), []
    lanes.took = lambda images, seconds: told.append((images, seconds))
    first = submitted(lanes, model, [1])
    assert model.reached.acquire(timeout=30)
    second = submitted(lanes, model, [2, 3, 4])
    assert model.reached.acquire(timeout=30)
    third = submitted(lanes, model, [5])
    model.go.set()
    assert [outcome(one) for one in (first, second, third)] == [[2.0], [4.0, 6.0, 8.0], [10.0]]
    assert model.where[:2] == [("0", 6), ("1", 3)] and [2, 3, 4] in model.batches
    lanes.call(lambda: None).result(30)
    assert sorted(images for images, _ in told)[-1] == 3 and all(seconds >= 0 for _, seconds in told)


def test_who_is_alone_is_always_in_the_first_lane_with_all_cores(lanes):
    model = Held()
    model.go.set()
    for value in range(5):
        assert outcome(submitted(lanes, model, [value])) == [2.0 * value]
        lanes.call(lambda: None).result(30)
    assert set(model.where) == {("0", 6)}


def test_what_the_first_lane_leaves_is_the_second_one_s_at_once_in_whatever_order_they_wake(lanes):
    model = Held()
    for _ in range(20):
        model.go.clear()
        with lanes.changed:  # both wake when both images are there, and in any order
            both = [submitted(lanes, model, [value]) for value in (1, 2)]
        assert model.reached.acquire(timeout=10) and model.reached.acquire(timeout=10)
        model.go.set()
        assert [outcome(one) for one in both] == [[2.0], [4.0]]
        lanes.beat().result(30)


def test_who_is_alone_for_a_moment_between_two_takes_no_cores_that_the_next_one_would_need(lanes, monkeypatch):
    model = Held()
    both = [submitted(lanes, model, [value]) for value in (1, 2)]
    assert model.reached.acquire(timeout=30) and model.reached.acquire(timeout=30)
    model.go.set()
    assert [outcome(one) for one in both] == [[2.0], [4.0]]
    lanes.beat().result(30)
    assert outcome(submitted(lanes, model, [3])) == [6.0]
    monkeypatch.setattr("insloc_server.compute.COMPANY_S", 0.0)  # as if time had passed
    lanes.beat().result(30)
    assert outcome(submitted(lanes, model, [4])) == [8.0]
    assert [cores for _, cores in model.where[2:]] == [3, 6]


def test_what_waits_is_for_all_idle_lanes_together():
    batcher = Batcher(8, joint=False)
    job = Job(tuple(item(value) for value in range(6)), WANT)
    for index in range(6):
        batcher.add(entry("model", job, index))
    assert [len(batcher.take(0.0, busy, idle)[0]) for busy, idle in ((0, 2), (1, 1))] == [3, 3]


def test_an_exact_answer_has_all_cores_whoever_else_computes(lanes):
    held, exact = Held(), Held()
    first = submitted(lanes, held, [1])
    assert held.reached.acquire(timeout=30)
    exact.go.set()
    want = Want(outputs=("pooled",), transform="eval", stride=16, deterministic=True)
    assert outcome(submitted(lanes, exact, [2], want)) == [4.0]
    held.go.set()
    assert outcome(first) == [2.0] and exact.where == [("insloc-apart", 6)]


def test_a_beat_is_that_of_every_lane(lanes):
    model = Held()
    lanes.beat().result(30)
    first = submitted(lanes, model, [1])
    assert model.reached.acquire(timeout=30)
    beat = lanes.beat()  # the other lane is free, and says so
    lanes.call(lambda: None).result(30)
    assert not beat.done()
    model.go.set()
    beat.result(30)
    assert outcome(first) == [2.0]


def test_while_clients_compete_each_image_has_all_cores(lanes):
    model = Held()
    first = submitted(lanes, model, [1, 2], client="greedy")
    assert model.reached.acquire(timeout=30)
    second = submitted(lanes, model, [3], client="polite")
    third = submitted(lanes, model, [4], client="greedy")
    model.go.set()
    assert [outcome(one) for one in (first, second, third)] == [[2.0, 4.0], [6.0], [8.0]]
    assert {cores for _, cores in model.where[-2:]} == {6}


def test_a_closed_thread_refuses_what_waits_and_what_comes():
    compute, model = Compute(Batcher(8, joint=True)), Model()
    compute.start()
    go = held(compute)
    waiting = submitted(compute, model, [1])
    call = compute.call(lambda: None)
    closing = threading.Thread(target=compute.close)
    closing.start()
    assert outcome(waiting) == "not_ready" and call.exception(30).code == "not_ready"
    go.set()
    closing.join(30)
    assert model.batches == []
    with pytest.raises(Refusal, match="does not run"):
        submitted(compute, model, [2])
