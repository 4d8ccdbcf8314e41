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
