"""Plain saves and counts that wait for the same batch, and what each of them is answered."""

import pytest

from pwserver.ipc import Scoreboard
from pwserver.limits import BATCH_BYTES_MAX, QUEUE_BYTES_MAX
from pwserver.wire.messages import passwords_saved, return_number_of_users
from tests.support.books import Client, new_scoreboard, users
from workers.serving.awaited import Awaited
from workers.serving.commit_queue import DONE, TOO_LATE, UNKNOWN, Batch, CommitQueue, Outcome

BEFORE = 100
"""Users before a batch."""


@pytest.fixture
def queue() -> CommitQueue:
    """Return an empty queue."""
    return CommitQueue()


@pytest.fixture
def scoreboard() -> Scoreboard:
    """Return a scoreboard that says another number of users than the batches' answers do."""
    board = new_scoreboard()
    board.users = 7
    return board


def save(queue: CommitQueue, client: Client, first: int, number: int = 1, size: int = 10) -> None:
    """Queue plain saves whose users' ids, and the requests' own, begin with a number."""
    ids = list(range(first, first + number))
    who = client.peer.caller.application
    queue.add(who, [(client, list(ids))], users(*ids), size * number, 0.0)


def count(queue: CommitQueue, client: Client, scoreboard: Scoreboard, id: int) -> None:
    """Queue a count, which must be possible."""
    assert queue.may_count(client)
    queue.add_counts(client, [id], scoreboard)


def settle(batch: Batch, outcome: Outcome = DONE) -> None:
    """Have a batch's runs replied to."""
    if outcome.done:
        batch.answer((BEFORE, []))
    for run in batch.runs:
        run.settle(outcome)


def replies(client: Client) -> list[bytes | None]:
    """Return what a client awaits, in its order."""
    return [each.reply for each in client.awaited]


def test_counts_among_saves_need_one_batch(queue: CommitQueue, scoreboard: Scoreboard) -> None:
    """Each counts exactly the saves before it, whoever sent them."""
    one, other = Client(), Client()
    save(queue, one, 1, 3)
    count(queue, one, scoreboard, 50)
    save(queue, other, 4)
    save(queue, one, 5)
    count(queue, one, scoreboard, 51)
    count(queue, other, scoreboard, 52)
    (batch,) = queue.take()
    settle(batch)
    assert replies(one) == [
        passwords_saved([1, 2, 3]),
        return_number_of_users(BEFORE + 3, 50),
        passwords_saved([5]),
        return_number_of_users(BEFORE + 5, 51),
    ]
    assert replies(other) == [passwords_saved([4]), return_number_of_users(BEFORE + 5, 52)]


@pytest.mark.parametrize("outcome", [UNKNOWN, TOO_LATE])
def test_where_nothing_is_saved_the_present_number_is_told(
    queue: CommitQueue, scoreboard: Scoreboard, outcome: Outcome
) -> None:
    """A count does not fail with the saves before it."""
    client = Client()
    save(queue, client, 1)
    count(queue, client, scoreboard, 50)
    (batch,) = queue.take()
    settle(batch, outcome)
    assert replies(client)[1] == return_number_of_users(scoreboard.users, 50)


def test_a_count_waits_where_its_batch_is_gone(queue: CommitQueue) -> None:
    """What was sent has its place among the others' commits, which a count must not take back."""
    client, other = Client(), Client()
    save(queue, client, 1)
    queue.take()
    assert not queue.may_count(client)
    save(queue, other, 2)
    assert not queue.may_count(client)
    assert queue.may_count(other)


def test_a_count_waits_for_what_a_transaction_does_last(queue: CommitQueue) -> None:
    """An operation, such as a save under a name, is done after the rows."""
    client = Client()
    client.awaited.append(Awaited())
    assert not queue.may_count(client)
    save(queue, client, 1)
    assert not queue.may_count(client), "the operation comes before the save"
    client.awaited.popleft()
    save(queue, Client(), 2)
    assert not queue.may_count(client), "what was in the way once is in the way until it is empty"


# --- Shares. ---


def ids_in(batches: list[Batch]) -> list[list[int]]:
    """Return the users of each batch."""
    return [[row[0] for row in batch.rows] for batch in batches]


def test_a_caller_that_saves_without_end_leaves_room_for_others(queue: CommitQueue) -> None:
    """One takes half of the queue, two a third each, and there is room for one more."""
    for number, who in enumerate(("web", None, "mail")):
        saved = 0
        while not queue.full(who):
            save(queue, Client(application=who), saved, size=QUEUE_BYTES_MAX // 1000)
            saved += 1
        assert saved == pytest.approx(500 / 2**number, abs=2)
    assert queue.may_be_full
    assert not queue.full("shop")
    queue.take()
    assert not any(queue.full(who) for who in ("web", None, "mail"))
    assert not queue.may_be_full


def test_a_callers_first_saves_go_with_the_next_batch(queue: CommitQueue) -> None:
    """They do not wait for what another has queued; what is the same caller's keeps its order."""
    greedy, modest = Client(application="web"), Client(application="shop")
    for number in range(4):
        save(queue, greedy, number, size=BATCH_BYTES_MAX)
    for number in (10, 11):
        save(queue, modest, number)
    save(queue, modest, 12, size=BATCH_BYTES_MAX // 8)
    save(queue, modest, 13)
    save(queue, greedy, 4)
    assert ids_in(queue.take()) == [[0, 10, 11, 12], [1, 13], [2], [3], [4]]


def test_a_count_may_join_the_batch_of_its_saves_wherever_that_is(
    queue: CommitQueue, scoreboard: Scoreboard
) -> None:
    """It counts the rows that its batch has by then, although other batches are behind it."""
    greedy, modest = Client(application="web"), Client(application="shop")
    for number in range(3):
        save(queue, greedy, number, size=BATCH_BYTES_MAX)
    save(queue, modest, 10)
    count(queue, modest, scoreboard, 50)
    save(queue, modest, 11)
    first, *_ = queue.take()
    settle(first)
    assert replies(modest) == [
        passwords_saved([10]),
        return_number_of_users(BEFORE + 2, 50),
        passwords_saved([11]),
    ]
