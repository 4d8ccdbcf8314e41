"""Who may come in: counts, bytes, shares and waits; nothing is refused below capacity."""

import time

import pytest

from insloc_server.problems import Refusal
from insloc_server.room import BURST, LONGEST_RETRY_S, Pace, Room


def room(images=64, size=1000, floor=16, seconds=0.01):
    house = Room(images, size, floor)
    house.pace.seconds = seconds
    return house


def refused(code, call, *given):
    with pytest.raises(Refusal) as caught:
        call(*given)
    assert caught.value.code == code
    assert 1 <= caught.value.facts["retry_after"] <= LONGEST_RETRY_S
    return caught.value


def test_a_full_house_refuses_and_an_empty_one_takes_any_request():
    house = room(images=8)
    large = house.take(20, "", 10)
    refused("overloaded", house.take, 1, "", 10)
    large.release()
    large.release()
    assert house.in_work.images == 0
    for _ in range(8):
        house.take(1, "", 10)
    assert "8 images are in work" in refused("overloaded", house.take, 1, "", 10).detail


def test_bytes_are_bounded_too_and_given_back():
    house = room(size=1000)
    one, two = house.take(1, "", 10), house.take(1, "", 10)
    one.grow(5000)  # an empty house takes any
    refused("overloaded", two.grow, 1)
    one.release()
    two.grow(600)
    two.grow(400)
    refused("overloaded", two.grow, 1)
    two.release()
    assert (house.in_work.images, house.in_work.size) == (0, 0)
    two.grow(10)  # a request that was given up while it was decoded
    assert house.in_work.size == 0


def test_a_long_wait_is_refused_before_the_house_is_full():
    house = room(seconds=0.1)
    for _ in range(20):
        house.take(1, "", 10)
    house.take(1, "", 10)  # 2.0 s ahead, 6 s are allowed
    assert "about 2.1 s of the 2 s" in refused("overloaded", house.take, 1, "", 2).detail
    house.take(1, "", 3.6)


def test_a_few_are_let_in_whatever_the_pace_is():
    house = room(floor=16, seconds=1000.0)
    for _ in range(16):
        house.take(1, "", 10)
    refused("overloaded", house.take, 1, "", 10)
    assert house.in_work.images == 16


def test_one_stall_does_not_close_the_house():
    pace = Pace()
    for _ in range(16):
        pace.took(0.16, 8)
    assert pace.seconds == pytest.approx(0.02)
    pace.took(60.0, 1)
    assert pace.seconds <= 0.02 * (1 + 0.2 * 2) + 1e-9  # 3 x the median, smoothed
    for _ in range(40):
        pace.took(0.4, 8)
    assert pace.seconds == pytest.approx(0.05, rel=0.01)  # and a lasting change is learnt


def test_a_greedy_client_has_half_of_the_house_while_another_is_there():
    house = room(images=16, floor=0)
    for _ in range(16):
        house.take(1, "greedy", 10)
    polite = house.take(1, "polite", 10)  # beside a full house
    assert "share" in refused("rate_limited", house.take, 1, "greedy", 10).detail
    for _ in range(3):
        house.take(1, "polite", 10)
    refused("overloaded", house.take, 1, "polite", 10)  # its part of what is kept: 16 / 4
    polite.release()
    assert house.in_work.images == 19


def test_the_wait_of_a_polite_client_is_not_that_of_the_greedy_one_s_line():
    house = room(floor=2, seconds=0.1)
    for _ in range(30):
        house.take(1, "greedy", 10)
    refused("overloaded", house.take, 1, "greedy", 4)
    house.take(1, "polite", 0.2)  # turns go round: one greedy image is ahead
    assert house.in_work.images == 31


def test_who_is_not_told_apart_has_the_whole_house():
    house = room(images=16, floor=0)
    house.take(1, "named", 10)
    for _ in range(15):
        house.take(1, "", 10)
    refused("overloaded", house.take, 1, "", 10)
    assert house.in_work.images == 16


def test_a_queue_that_stands_has_no_floor_until_it_is_nearly_gone():
    house = room(floor=16, seconds=0.09)
    first = [house.take(1, "", 1) for _ in range(8)]  # .63 s ahead of the last, .6 are allowed: a burst may be so
    time.sleep(1.1 * BURST)
    refused("overloaded", house.take, 1, "", 1)
    first.pop().release()
    first.pop().release()
    between = house.take(1, "", 1)  # .54 s ahead: the share itself decides
    refused("overloaded", house.take, 1, "", 1)
    for place in [*first[:4], between]:
        place.release()
    for _ in range(10):
        house.take(1, "", 1)  # .18 s ahead of the first: it was gone
    assert house.in_work.images == 12


def test_another_client_s_queue_that_stands_leaves_mine_its_floor():
    house = room(floor=16, seconds=0.1)
    for _ in range(8):
        house.take(1, "greedy", 1)
    time.sleep(1.1 * BURST)
    refused("overloaded", house.take, 1, "greedy", 1)
    for _ in range(6):
        house.take(1, "polite", 1)
    assert house.in_work.images == 14


def test_an_empty_house_takes_a_request_however_slow_it_is():
    house = room(floor=0, seconds=1000.0)
    assert house.take(1, "", 10).held and house.in_work.images == 1
