"""The history: what came in between two samples, and what happened."""

import pytest

from pwserver.ipc import Scoreboard
from pwserver.tally import OK, READS, SAVES, Tally
from workers.http.health import Health
from workers.http.history import SAMPLES_MAX, History
from workers.storage.backup_files import FAILURES, NO_ROOM
from workers.storage.outage import DISK_FULL, REASONS

NAMES = {1: "worker 1", 2: "checker"}


@pytest.fixture
def board() -> Scoreboard:
    """Return the scoreboard of a service with one worker."""
    board = Scoreboard(2)
    board.workers = 1
    board.reset(1)
    board.reset(2)
    return board


@pytest.fixture
def history(board: Scoreboard) -> History:
    """Return the history of this service, with one application that is known by name."""
    about = {5: {"name": "web", "may": ["save"], "book": "its own", "expires": None}}
    return History(board, 1, NAMES, Health(board, {1: "worker 1"}), lambda: about)


def test_a_sample_has_what_came_since_the_last(board: Scoreboard, history: History) -> None:
    """What is over is not counted again; where nothing came, there is no time and no size."""
    tally = Tally(board.block(1))
    tally.answer(0, SAVES, OK, 60)
    tally.sent_replies(0.0)
    tally.commit(60, 100)
    tally.did(5, SAVES, 60)
    tally.did(9, READS, 1)
    tally.publish(3, 10, 20, 0)
    board.users = 60
    history.sample()
    history.sample()
    first, second = history.told(0)["samples"]
    assert first["rates"][SAVES] > 0
    assert (first["batch"], first["connections"], first["queued"]) == (60, [3], 30)
    assert first["save_ms"][0] > 0
    assert (second["rates"], second["batch"]) == ([0, 0, 0, 0], None)
    assert second["save_ms"] == [None] * 3
    told = {each["name"]: each["did"] for each in history.told(0)["applications"]}
    assert told == {"(without a token)": 0, "web": 60, "(removed, 9)": 1}
    assert history.told(second["t"])["samples"] == []


def test_what_happens_is_an_event(board: Scoreboard, history: History) -> None:
    """A restart, a fault and its end, each once, and never the first start."""
    board.reset(1)
    board.note_outage(REASONS.index(DISK_FULL))
    history.sample()
    history.sample()
    assert history.told(0)["troubles"] == [f"nothing can be saved: {DISK_FULL}"]
    board.end_outage()
    history.sample()
    told = history.told(0)
    assert [(each["kind"], each["text"]) for each in told["events"]] == [
        ("restart", "worker 1 was started again"),
        ("fault", f"nothing can be saved: {DISK_FULL}"),
        ("well", f"over: nothing can be saved: {DISK_FULL}"),
    ]
    assert told["troubles"] == []
    assert [(each["name"], each["restarts"]) for each in told["processes"]] == [
        ("worker 1", 1),
        ("checker", 0),
    ]


def test_a_backup_is_an_event_and_a_failed_one_a_trouble(
    board: Scoreboard, history: History
) -> None:
    """Each that was made is told once; that they fail, until one is made."""
    board.backup_failed(FAILURES.index(NO_ROOM))
    history.sample()
    assert history.told(0)["troubles"] == [f"no backup: {NO_ROOM}"]
    board.backup_made(5_000, 10, 4096)
    history.sample()
    history.sample()
    assert [(each["kind"], each["text"]) for each in history.told(0)["events"]] == [
        ("fault", f"no backup: {NO_ROOM}"),
        ("backup", "a backup was made and verified"),
        ("well", f"over: no backup: {NO_ROOM}"),
    ]


def test_a_missing_worker_is_a_trouble(board: Scoreboard, history: History) -> None:
    """As long as one is not ready, the page says so."""
    board.workers = 0
    assert history.told(0)["troubles"] == ["0 of 1 workers are ready"]


def test_it_is_bounded(history: History) -> None:
    """A monitor that runs for a year keeps some minutes, and some lines."""
    for number in range(SAMPLES_MAX + 10):
        history.sample()
        history.add_line(str(number))
    told = history.told(0)
    assert len(told["samples"]) == SAMPLES_MAX
    assert told["log"][-1] == str(SAMPLES_MAX + 9)
    assert len(told["log"]) < 100
