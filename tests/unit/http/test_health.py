"""Health is told by the scoreboard: who is silent, and whether the writer commits."""

import asyncio
import time

import pytest

from pwserver.ipc import Scoreboard
from workers.http import health
from workers.http.health import Health
from workers.storage.outage import DISK_FULL, REASONS


@pytest.fixture
def board() -> Scoreboard:
    """Return the scoreboard of a service with two workers."""
    return Scoreboard(2)


@pytest.fixture
def watcher(board: Scoreboard) -> Health:
    """Return the health of these workers."""
    return Health(board, {1: "worker 1", 2: "worker 2"})


def test_who_is_silent_for_four_looks_does_not_answer(board: Scoreboard, watcher: Health) -> None:
    """A sign of life makes it well again at once; the listener is watched as the workers are."""
    for _ in range(5):
        board.beat(1)
        watcher.look()
    assert watcher.silent() == ["listener", "worker 2"]
    board.beat(2)
    board.ticks += 1
    watcher.look()
    assert watcher.silent() == []


def test_a_commit_of_just_now_is_enough(board: Scoreboard, watcher: Health) -> None:
    """Who asks again and again makes the writer do nothing."""
    board.committed_ms = time.monotonic_ns() // 1_000_000
    assert asyncio.run(watcher.why_not_ready()) == ""
    assert not board.probe_wanted


def test_a_commit_is_waited_for(board: Scoreboard, watcher: Health) -> None:
    """If there was none lately, one is wanted, and its success is the answer."""

    async def both() -> str:
        asked = asyncio.create_task(watcher.why_not_ready())
        while not board.probe_wanted:
            await asyncio.sleep(0)
        assert not asked.done()
        board.committed_ms = time.monotonic_ns() // 1_000_000 + 1
        return await asked

    assert asyncio.run(both()) == ""


def test_no_commit_is_not_ready(
    board: Scoreboard, watcher: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline, and in an outage at once, there is a reason."""
    monkeypatch.setattr(health, "READY_S", 0.01)
    assert asyncio.run(watcher.why_not_ready()) == "There was no commit within 0.01 s."
    board.note_outage(REASONS.index(DISK_FULL))
    assert asyncio.run(watcher.why_not_ready()) == DISK_FULL


def test_who_accepts_nobody_is_not_ready(board: Scoreboard, watcher: Health) -> None:
    """Although what is connected could still save: a balancer asks for its next clients."""
    board.committed_ms = time.monotonic_ns() // 1_000_000 + 60_000
    for _ in range(5):
        watcher.look()
    assert asyncio.run(watcher.why_not_ready()) == "The listener does not answer."
    board.ticks += 1
    watcher.look()
    assert asyncio.run(watcher.why_not_ready()) == ""
    watcher.stopping = True
    assert asyncio.run(watcher.why_not_ready()) == "The service is stopping."
