"""Looking for events for a moment instead of sleeping until they come."""

import os
import select
import socket
import time

import pytest

from workers.waiting import Lookout


@pytest.fixture
def watched() -> select.epoll:
    return select.epoll()


def test_what_is_there_is_returned_at_once(watched: select.epoll) -> None:
    """Nobody waits for what has come already."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched.register(ours, select.EPOLLIN)
        theirs.send(b"!")
        assert Lookout(watched, patience_s=60.0).look() == [(ours.fileno(), select.EPOLLIN)]


def test_it_looks_no_longer_than_it_is_to(watched: select.epoll) -> None:
    """Where nothing comes it is time to sleep."""
    begin = time.monotonic()
    assert Lookout(watched, patience_s=0.02).look() == []
    assert time.monotonic() - begin >= 0.02


def test_who_is_held_up_sleeps_for_a_while(
    watched: select.epoll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a program that takes all it can, looking is given up; later it begins again."""
    yields: list[float] = []

    def hold_up() -> None:
        yields.append(time.monotonic())
        time.sleep(0.005)

    monkeypatch.setattr(os, "sched_yield", hold_up)
    monkeypatch.setattr("workers.waiting._PAUSE_S", 60.0)
    lookout = Lookout(watched, patience_s=0.001)
    assert lookout.look() == []
    assert len(yields) == 1
    assert lookout.look() == []
    assert len(yields) == 1, "it did not look"
    monkeypatch.setattr("workers.waiting._PAUSE_S", 0.0)
    lookout = Lookout(watched, patience_s=0.001)
    lookout.look()
    lookout.look()
    assert len(yields) == 3, "it looked both times"
