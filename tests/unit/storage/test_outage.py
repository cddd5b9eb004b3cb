"""What is said of an outage, and when: on the scoreboard, and in the log once a minute."""

import logging
import time

import pytest

from pwserver.ipc import Scoreboard
from workers.storage.outage import DISK_FULL, READ_ONLY, REASONS, Outage


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that an outage goes by."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


@pytest.fixture
def scoreboard() -> Scoreboard:
    """Return a scoreboard of nobody else."""
    return Scoreboard(1)


def since_and_why(scoreboard: Scoreboard) -> tuple[int, str]:
    since_ms, reason = scoreboard.outage
    return since_ms, REASONS[reason]


def test_the_scoreboard_says_since_when_and_why(clock: Clock, scoreboard: Scoreboard) -> None:
    """The beginning stays what it was, and the reason is the last one."""
    outage = Outage(scoreboard)
    assert scoreboard.outage[0] == 0
    outage.refused(1, DISK_FULL)
    since_ms, reason = since_and_why(scoreboard)
    assert abs(since_ms / 1000 - time.time()) < 60
    assert reason == DISK_FULL
    outage.refused(1, READ_ONLY)
    assert since_and_why(scoreboard) == (since_ms, READ_ONLY)


def test_it_ends_when_nothing_was_refused_for_a_while(clock: Clock, scoreboard: Scoreboard) -> None:
    """A small change that fits between large ones that do not is no end."""
    outage = Outage(scoreboard)
    outage.refused(1, DISK_FULL)
    outage.written()
    assert outage.lasts
    clock.now_s += 4
    outage.refused(1, DISK_FULL)
    clock.now_s += 4
    outage.written()
    assert outage.lasts
    clock.now_s += 4
    outage.written()
    assert not outage.lasts
    assert scoreboard.outage[0] == 0


def test_a_writer_that_begins_has_none(scoreboard: Scoreboard) -> None:
    """What the one before it had ended with it: only this one knows whether it can write."""
    Outage(scoreboard).refused(1, DISK_FULL)
    assert not Outage(scoreboard).lasts
    assert scoreboard.outage[0] == 0


def test_the_log_says_it_once_a_minute(
    clock: Clock, scoreboard: Scoreboard, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, then each minute with the number since the last time, and at the end all."""
    outage = Outage(scoreboard)
    with caplog.at_level(logging.WARNING, "workers.storage.outage"):
        for tenth in range(1200):  # two minutes
            clock.now_s = 1000 + tenth / 10  # added up, it would fall short of a minute
            outage.refused(3, DISK_FULL)
        clock.now_s += 10
        outage.written()
    beginning, minute, end = caplog.messages
    assert beginning == "nothing can be saved. The disk is full. Changes refused: 3"
    assert minute == "nothing can be saved. The disk is full. Changes refused: 1,800"
    assert end == "changes are saved again. Refused in all: 3,600"
