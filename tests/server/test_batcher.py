"""Whose turn it is: counted in images computed, on a clock of the test's own."""

import math
import random

import pytest

from insloc_server.batcher import COMPETING_S, Batcher, Waiting


def waiting(name, client="", model="m", key="k", since=0.0, expires=1e9, gone=lambda: False):
    return Waiting(model=model, client=client, key=key, since=since, expires=expires, gone=gone, payload=name)


def filled(*items, most=8, joint=False):
    batcher = Batcher(most, joint)
    for item in items:
        batcher.add(item)
    return batcher


def names(batcher, now=0.0):
    """The batches until nothing waits."""
    batches = []
    while len(batcher):
        batch, _ = batcher.take(now)
        batches.append([one.payload for one in batch])
    return batches


def test_what_waits_is_taken_at_once_in_order_up_to_the_most():
    assert names(filled(*(waiting(i) for i in range(5)), most=2)) == [[0, 1], [2, 3], [4]]
    assert filled().take(0.0) == ([], [])


def test_only_equal_keys_share_a_batch_and_the_first_in_line_goes_first():
    batcher = filled(waiting(0, key="a"), waiting(1, key="b"), waiting(2, key="a"), waiting(3, key="b"))
    assert names(batcher) == [[0, 2], [1, 3]]


def test_models_take_turns_however_long_their_lines():
    batcher = filled(*(waiting(f"long {i}", model="long") for i in range(4)), waiting("short", model="short"), most=2)
    assert names(batcher) == [["long 0", "long 1"], ["short"], ["long 2", "long 3"]]


def test_on_an_accelerator_clients_share_full_batches_image_by_image():
    greedy = [waiting(f"g{i}", client="greedy") for i in range(6)]
    batcher = filled(*greedy, waiting("p", client="polite"), most=4, joint=True)
    assert names(batcher) == [["g0", "p", "g1", "g2"], ["g3", "g4", "g5"]]


def test_on_a_cpu_nobody_goes_twice_while_another_waits():
    greedy = [waiting(f"g{i}", client="greedy") for i in range(3)]
    polite = [waiting(f"p{i}", client="polite") for i in range(2)]
    assert names(filled(*greedy, *polite)) == [["g0", "p0"], ["g1"], ["p1"], ["g2"]]
    others = [waiting(name, client=name) for name in "abcd"]
    assert names(filled(*others)) == [["a", "b", "c", "d"]]


def test_who_has_been_alone_for_a_while_gets_full_batches_again():
    batcher = filled(waiting("p", client="polite"), waiting("g", client="greedy"))
    names(batcher)
    for i in range(4):
        batcher.add(waiting(i, client="greedy", since=COMPETING_S + 1))
    assert names(batcher, now=COMPETING_S + 1) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("most", [1, 8])
def test_a_greedy_client_costs_a_polite_one_at_most_twice_its_lonely_wait(most):
    """A CPU: each image takes one unit of time. Alone, a polite image takes 1; at worst it waits for one other."""
    draw = random.Random(0)
    batcher, clock, served = Batcher(most, joint=False), 0.0, 0
    for i in range(64):
        batcher.add(waiting(i, client="greedy"))
    batcher.add(waiting("first", client="polite"))  # without it nobody knows that there are two
    came, comes, waits = 0.0, math.inf, []
    while len(waits) < 200:
        batch, _ = batcher.take(clock)
        ends = clock + len(batch)
        if comes < ends:  # while this batch is computed
            came, comes = comes, math.inf
            batcher.add(waiting("next", client="polite", since=came))
        clock = ends
        for one in batch:
            if one.client == "polite":
                waits.append(clock - came)
                comes = clock + draw.uniform(0, 8)
            else:
                served += 1
                batcher.add(waiting(served, client="greedy", since=clock))
    assert max(waits[1:]) <= 2.0
    assert served > 200  # and the greedy one has the rest of the time


def test_what_is_gone_or_has_expired_is_never_taken():
    batcher = filled(
        waiting("gone", gone=lambda: True),
        waiting("late", expires=5.0),
        waiting("late and gone", expires=5.0, gone=lambda: True),
        waiting("good", expires=5.1),
    )
    batch, expired = batcher.take(5.0)
    assert ([one.payload for one in batch], [one.payload for one in expired]) == (["good"], ["late"])
    assert len(batcher) == 0 and batcher.take(5.0) == ([], [])


def test_a_client_whose_images_are_all_gone_holds_no_turn():
    batcher = filled(waiting("gone", client="a", gone=lambda: True), waiting("b", client="b"))
    assert names(batcher) == [["b"]]


def test_the_oldest_is_the_one_that_came_first():
    batcher = filled(waiting("a", client="a", since=3.0), waiting("b", client="b", model="n", since=2.0))
    assert batcher.oldest() == 2.0
    assert [one.payload for one in batcher.clear()] == ["a", "b"]
    assert batcher.oldest() is None and len(batcher) == 0


def test_while_several_clients_come_there_is_one_batch_at_a_time():
    batcher = Batcher(8, joint=False)
    for client in ("greedy", "greedy", "polite"):
        batcher.add(waiting(client, client))
    assert [one.client for one in batcher.take(0.0, busy=0, idle=2)[0]] == ["greedy", "polite"]
    assert batcher.take(0.0, busy=1, idle=1) == ([], [])
    assert [one.client for one in batcher.take(0.0, busy=0, idle=2)[0]] == ["greedy"]
