"""The writer: one commit for the batches of all workers, and an answer to each of them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from pwserver.ipc import Scoreboard
from tests.support.books import Saving, new_scoreboard, users
from tests.support.writers import AtWriter, committer_of, open_writer
from workers.serving.commit_queue import DONE as BATCH_DONE
from workers.serving.commit_queue import Batch
from workers.storage.operations import DELETE, DONE, STALE
from workers.storage.outage import DISK_FULL, DISK_LOW, REASONS
from workers.writer import Writer


@pytest.fixture
def scoreboard() -> Scoreboard:
    """Return the scoreboard of the service."""
    return new_scoreboard()


@pytest.fixture
def writer(tmp_path: Path, scoreboard: Scoreboard) -> Iterator[Writer]:
    """Return the writer of a new book."""
    with contextlib.closing(open_writer(tmp_path / "user_data.db", scoreboard)) as opened:
        yield opened


@pytest.fixture
def join(writer: Writer) -> Iterator[Callable[[], AtWriter]]:
    """Return what connects another worker."""
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(contextlib.closing(AtWriter(writer)))


def test_a_worker_is_told_the_newest_id_first(writer: Writer, join: Callable[[], AtWriter]) -> None:
    """So that it makes greater ones."""
    assert join().newest_id == 0
    writer.commit([Batch(0.0, rows=users(5, 7))])
    assert join().newest_id == 7


def test_every_batch_is_told_how_many_users_there_were_before_it(
    writer: Writer, scoreboard: Scoreboard, join: Callable[[], AtWriter]
) -> None:
    """Those of earlier transactions, and the rows of the batches before it in its own."""
    workers = join(), join()
    writer.commit([Batch(0.0, rows=users(1, 2))])
    workers[0].send(users(3, 4, 5), [])
    workers[1].send(users(6), [tuple(Saving(username="a", user_id=9))])
    assert all(worker.receive() for worker in workers)
    own = [Batch(0.0, rows=users(7)), Batch(0.0, rows=users(8))]
    writer.commit(own)
    assert [worker.answers() for worker in workers] == [[(2, [])], [(5, [DONE])]]
    assert [(batch.users, batch.outcome) for batch in own] == [(6, BATCH_DONE), (7, BATCH_DONE)]
    assert scoreboard.users == 9


def test_results_go_to_the_batches_of_their_operations(
    writer: Writer, join: Callable[[], AtWriter]
) -> None:
    """Each worker gets those of its own, in their order."""
    workers = join(), join()
    delete_nobody = (DELETE, None, 99)
    workers[0].send([], [delete_nobody, tuple(Saving(username="a", user_id=1))])
    workers[1].send([], [tuple(Saving(username="b", user_id=2)), delete_nobody])
    for worker in workers:
        worker.receive()
    own = Batch(0.0, operations=[delete_nobody])
    writer.commit([own])
    assert [worker.answers() for worker in workers] == [
        [(0, [STALE, DONE])],
        [(0, [DONE, STALE])],
    ]
    assert own.results == [STALE]


def test_who_was_too_late_for_a_name_goes_first_next_time(
    writer: Writer, join: Callable[[], AtWriter]
) -> None:
    """The worker that writes would always be faster, so it waits, but not for long."""
    worker = join()
    writer.commit([Batch(0.0, operations=[(DELETE, None, 99)])])
    assert not writer.owed_s, "its own operation was stale"
    worker.send([], [(DELETE, None, 99)])
    worker.receive()
    writer.commit([])
    assert worker.answers() == [(0, [STALE])]
    assert writer.owed_s <= 0.001
    worker.send([], [(DELETE, None, 99)])
    worker.receive()
    assert not writer.owed_s
    writer.commit([])
    time.sleep(0.002)
    assert not writer.owed_s, "it has not come"


def test_batches_are_answered_although_a_worker_is_gone(
    writer: Writer, join: Callable[[], AtWriter]
) -> None:
    """What it sent is done, because its client may have been told nothing else."""
    gone, other = join(), join()
    gone.send(users(1), [])
    other.send(users(2), [])
    gone.close()
    assert gone.receive()
    assert not gone.receive()
    assert other.receive()
    writer.commit([])
    assert other.answers() == [(1, [])]
    other.close()
    assert not other.receive()


def test_a_large_batch_is_received_at_once(join: Callable[[], AtWriter], writer: Writer) -> None:
    """Otherwise it would wait for as many turns, and each of them may commit."""
    worker = join()
    rows = [(*row[:3], b"x" * 1000, row[4]) for row in users(*range(1, 151))]
    worker.send(rows, [])
    worker.receive()
    writer.commit([])
    assert worker.answers() == [(0, [])]


def test_a_removed_log_that_finds_no_room_changes_no_answer(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed is answered as done; the log is copied when there is room."""

    def no_room() -> bool:
        raise apsw.FullError

    monkeypatch.setattr(committer_of(writer).store, "close_after_removal", no_room)
    committer_of(writer).store._log_path.unlink()
    batch = Batch(0.0, rows=users(1))
    writer.commit([batch])
    writer.tick()
    assert batch.outcome == BATCH_DONE
    monkeypatch.undo()
    writer.tick()
    assert committer_of(writer).store.connection.execute("SELECT count(*) FROM user").get == 1


def test_nothing_of_a_refused_commit_is_answered_as_done(
    writer: Writer,
    scoreboard: Scoreboard,
    monkeypatch: pytest.MonkeyPatch,
    join: Callable[[], AtWriter],
) -> None:
    """All batches get the reason, and the number of users stays."""
    worker, own = join(), Batch(0.0, rows=users(1))
    worker.send(users(2), [])
    worker.receive()
    committer_of(writer).store.connection.execute("PRAGMA max_page_count = 1")
    rows = [(*row[:3], b"x" * 100_000, row[4]) for row in own.rows]
    own.rows = rows
    writer.commit([own])
    assert own.outcome is not None
    assert (own.outcome.done, own.outcome.known, own.outcome.reason) == (False, True, DISK_FULL)
    assert worker.answers() == [DISK_FULL]
    assert scoreboard.users == 0


def test_how_long_commits_take_is_published(writer: Writer, scoreboard: Scoreboard) -> None:
    """As an average that a single slow one does not change for long, and none while none runs."""
    for number in range(1, 30):
        writer.commit([Batch(0.0, rows=users(number))])
        assert scoreboard.commit_since_us == 0
    assert 0 < scoreboard.commit_us <= 10_000
    committer_of(writer)._note_time(time.monotonic_ns() // 1000 - 2_000_000)
    assert scoreboard.commit_us <= 10_000
    for _ in range(30):
        committer_of(writer)._note_time(time.monotonic_ns() // 1000 - 100)
    assert scoreboard.commit_us < 1000


def test_there_is_nothing_to_await_after_a_turn_without_changes(writer: Writer) -> None:
    """`changes` is of the last commit."""
    writer.commit([Batch(0.0, rows=users(1, 2))])
    assert writer.changes == 2
    writer.commit([])
    assert writer.changes == 0


def test_the_workers_are_told_of_a_disk_with_little_room(
    tmp_path: Path, scoreboard: Scoreboard
) -> None:
    """At the next tick, and also that it is over; the writer itself refuses nothing."""
    path = tmp_path / "user_data.db"
    with contextlib.closing(open_writer(path, scoreboard, 1 << 62)) as writer:
        assert not scoreboard.disk_low
        writer.tick()
        assert scoreboard.disk_low
        assert scoreboard.disk_low_for_guests
        assert REASONS[scoreboard.outage[1]] == DISK_LOW
        batch = Batch(0.0, rows=users(1))
        writer.commit([batch])
        assert batch.outcome == BATCH_DONE
    with contextlib.closing(open_writer(path, scoreboard, 1)) as writer:
        writer.tick()
        assert not scoreboard.disk_low
        assert not scoreboard.disk_low_for_guests
