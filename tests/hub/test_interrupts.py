"""Stopping by signal."""

import os
import signal

import pytest

from insloc_hub.interrupts import interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_flag_the_second_acts_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupts() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), number)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
