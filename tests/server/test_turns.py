"""Who decodes when: clients take turns, image by image; nothing that goes wrong takes a thread with it."""

import threading
import time

import pytest

from insloc_server.turns import Turns


@pytest.fixture
def turns():
    made = Turns(1, "test")
    yield made
    made.close()


def steps(name, count, order, gate=None):
    for number in range(count):
        if gate is not None:
            gate.wait(10)
        order.append(f"{name}{number}")
        yield number


def test_clients_take_turns_and_a_client_s_requests_keep_their_order(turns):
    order, gate = [], threading.Event()
    futures = [turns.take("greedy", steps("a", 4, order, gate), 4), turns.take("greedy", steps("b", 2, order), 2)]
    futures.append(turns.take("polite", steps("p", 1, order), 1))
    gate.set()
    assert [future.result(10) for future in futures] == [[0, 1, 2, 3], [0, 1], [0]]
    assert order == ["a0", "p0", "a1", "a2", "a3", "b0", "b1"]


def test_what_a_step_raises_is_its_request_s_alone(turns):
    def failing():
        yield 1
        raise SystemExit("no")

    bad, good = turns.take("", failing(), 2), turns.take("", iter([1]), 1)
    with pytest.raises(SystemExit):
        bad.result(10)
    assert good.result(10) == [1]


def test_what_is_cancelled_is_not_done_further(turns):
    order, gate = [], threading.Event()
    first = turns.take("", steps("a", 3, order, gate), 3)
    second = turns.take("", steps("b", 3, order), 3)
    assert second.cancel()
    time.sleep(0.05)
    assert first.cancel()
    gate.set()
    assert turns.take("", iter([1]), 1).result(10) == [1]
    assert order == ["a0"]


def test_the_end_waits_for_what_there_is_and_takes_no_more():
    order, turns = [], Turns(2, "test")
    future = turns.take("", steps("a", 3, order), 3)
    turns.close()
    assert future.result(0) == [0, 1, 2]
    with pytest.raises(RuntimeError):
        turns.take("", iter([1]), 1)
