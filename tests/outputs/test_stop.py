import os
import signal

import pytest

from diffusers_ext.outputs.stop import Stopped, StopRequest


def test_sigterm_asks_and_the_handler_goes_away():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_request_raises_where_it_is_heard_at_once():
    reached = []
    with StopRequest() as stop:
        with pytest.raises(Stopped), stop.at_once():
            reached.append("before")
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("after")
        assert stop.asked and reached == ["before"]
        os.kill(os.getpid(), signal.SIGTERM)  # elsewhere it is noted, and the next such place raises
        with pytest.raises(Stopped), stop.at_once():
            reached.append("after")
    assert reached == ["before"]
