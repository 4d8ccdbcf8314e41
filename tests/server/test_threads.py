"""Work on a thread that ends with it: its outcome, its error, and none of torch's helpers left."""

import threading

import pytest
import torch

from insloc_server.threads import apart, single_threaded


def test_the_outcome_is_the_work_s_and_the_thread_is_gone():
    before = threading.active_count()
    assert apart(lambda: threading.current_thread().name) == "insloc-apart"
    assert threading.active_count() == before


def test_what_the_work_raises_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 / 0)


def test_a_thread_without_helpers_is_so_alone():
    before = torch.get_num_threads()

    def work():
        single_threaded()
        return torch.get_num_threads()

    assert apart(work) == 1 and torch.get_num_threads() == before


def test_a_thread_without_helpers_stays_so_whatever_others_say_before_its_first_operation():
    said, go_on = threading.Event(), threading.Event()
    numbers = []

    def work():
        single_threaded()
        said.set()
        go_on.wait(10)
        torch.ones(100_000).sum()  # torch takes the newest number of any thread at a thread's first operation
        numbers.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    said.wait(10)
    before = torch.get_num_threads()
    apart(lambda: torch.set_num_threads(before + 1))
    go_on.set()
    thread.join()
    apart(lambda: torch.set_num_threads(before))
    assert numbers == [1]
