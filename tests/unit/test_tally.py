"""What workers count: each in its own place, nothing lost when a worker is replaced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwserver.errors import Denied, InvalidMessage, NotSaved, Unavailable, UnknownUser
from pwserver.ipc import Scoreboard
from pwserver.tally import (
    APPLICATIONS_TOLD_APART,
    COMMANDS,
    COUNTS,
    DENIED,
    OK,
    OTHERS,
    OUTCOMES,
    READS,
    SAVES,
    SIZE_BUCKETS,
    TIME_BUCKETS,
    Counts,
    Tally,
    outcome_of,
    percentile_s,
    size_bounds,
    time_bounds_s,
)
from pwserver.wire import messages
from workers.serving.commands import TABLE

NAMES = list(OUTCOMES)


def published(tally: Tally, board: Scoreboard) -> Counts:
    """Return what the first worker of a board shows."""
    tally.publish(1, 2, 3, 4)
    return Counts([board.block(1)])


@pytest.fixture
def board() -> Scoreboard:
    """Return a scoreboard with two workers."""
    return Scoreboard(2)


@pytest.fixture
def tally(board: Scoreboard) -> Tally:
    """Return what the first worker counts."""
    return Tally(board.block(1))


def test_every_command_is_counted() -> None:
    """A message of the table without a place would fail at its first request."""
    assert {*COMMANDS} == {each.message.__struct_config__.tag for each in TABLE} | {"invalid"}
    kinds = {each.message.__struct_config__.tag: each.kind for each in TABLE}
    assert [kinds[name] for name in ("save_password", "delete_user")] == [SAVES, SAVES]
    assert [kinds[name] for name in ("get_password", "list_users")] == [READS, READS]
    assert [kinds[name] for name in ("number_of_users", "ping")] == [COUNTS, OTHERS]


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (messages.PASSWORD_SAVED, "ok"),
        (messages.encode("return_password", 1, password='"Denied!"'), "ok"),
        (messages.INVALID_MESSAGE, "invalid"),
        (messages.refusal(InvalidMessage("why"), 5), "invalid"),
        (messages.refusal(NotSaved("why"), 5), "not_saved"),
        (messages.refusal(UnknownUser(""), "x"), "unknown_user"),
        (messages.denied("Unavailable!", "why"), "denied"),
        (messages.refusal(Unavailable(""), 5), "unavailable"),
    ],
)
def test_the_reply_tells_the_outcome(reply: bytes, outcome: str) -> None:
    """However a reply is written, its word decides, and nothing that a client chose."""
    assert NAMES[outcome_of(reply)] == outcome
    assert Denied.message in OUTCOMES.values()


def test_a_worker_goes_on_from_what_the_one_before_it_has_counted(board: Scoreboard) -> None:
    """Numbers never fall, because the new worker takes them from the board; others keep theirs."""
    for _ in range(2):
        tally = Tally(board.block(1))
        tally.answer(0, SAVES, OK, 5)
        tally.did(77, READS, 3)
        tally.sent_replies(0.0)
        tally.publish(1, 0, 0, 0)
    counts = Counts([board.block(1)])
    assert counts.requests(0, 0) == sum(counts.times(SAVES)[:-1]) == 10
    assert counts.applications == {77: [0, 6, 0, 0, 0]}
    other = Counts([board.block(2)])
    assert (other.requests(0, 0), other.applications) == (0, {})
    assert Counts([board.block(1), board.block(1)]).applications == {77: [0, 12, 0, 0, 0]}


def test_nothing_is_shown_before_it_is_published(board: Scoreboard, tally: Tally) -> None:
    """What is counted costs no write to shared memory until the tick."""
    tally.answer(1, COUNTS, OK)
    assert Counts([board.block(1)]).requests(1, 0) == 0
    counts = published(tally, board)
    assert counts.requests(1, 0) == 1
    numbers = [counts.single(name) for name in ("connections", "queued", "named", "checks")]
    assert numbers == [1, 2, 3, 4]


def test_a_time_counts_when_its_replies_leave(board: Scoreboard, tally: Tally) -> None:
    """Before that nobody knows how long it takes; after it the same time counts only once."""
    tally.answer_later(0, SAVES, OK, 0.0, 7)
    assert sum(published(tally, board).times(SAVES)) == 0
    for _ in range(2):
        tally.sent_replies(0.0)
        *buckets, total_us = published(tally, board).times(SAVES)
        assert (sum(buckets), buckets[-1]) == (7, 7), "the machine runs for longer than 8 s"
        assert total_us > 0


def test_commits_are_counted_by_size_and_time(board: Scoreboard, tally: Tally) -> None:
    """A bucket has the sizes up to its bound, and the last one all that are greater."""
    for size in (1, 2, 3, 4, 5, 10**6):
        tally.commit(size, 31)
    tally.commit(1, 32)
    tally.failed_commit()
    counts = published(tally, board)
    *sizes, total = counts.commit_sizes
    assert sizes == [2, 1, 2, 1, *[0] * (SIZE_BUCKETS - 5), 1]
    assert total == 16 + 10**6
    assert counts.commit_times == [6, 1, *[0] * (TIME_BUCKETS - 2), 6 * 31 + 32]
    assert counts.single("failed_commits") == 1
    assert (size_bounds()[:3], time_bounds_s()[:2]) == ([1, 2, 4], [32e-6, 64e-6])
    assert (len(size_bounds()), len(time_bounds_s())) == (SIZE_BUCKETS - 1, TIME_BUCKETS - 1)


def test_too_many_applications_share_a_row(board: Scoreboard, tally: Tally) -> None:
    """What the block has no row for is counted with the clients that have no token."""
    for number in range(1, APPLICATIONS_TOLD_APART + 2):
        tally.did(number, DENIED, 1)
    told = published(tally, board).applications
    assert len(told) == APPLICATIONS_TOLD_APART
    assert (told[1][DENIED], told[0][DENIED]) == (1, 2)


def test_percentiles() -> None:
    """Within a bucket they lie between its bounds; of nothing there is none."""
    assert percentile_s([0, 0], 0.5) is None
    assert percentile_s([10, 0, 0], 0.5) == pytest.approx(16e-6)
    assert percentile_s([0, 0, 4], 1.0) == pytest.approx(128e-6)


@given(st.lists(st.integers(0, 1000), min_size=TIME_BUCKETS, max_size=TIME_BUCKETS))
def test_greater_shares_take_longer(buckets: list[int]) -> None:
    """Whatever is in the buckets, the percentiles do not fall, and stay below the last bound."""
    times = [percentile_s(buckets, share) for share in (0.5, 0.95, 0.99, 1.0)]
    if any(buckets):
        assert times == sorted(times)  # type: ignore[type-var]
        assert 0 < (times[0] or 0) <= (times[-1] or 0) <= 32e-6 * 2 ** (TIME_BUCKETS - 1)
    else:
        assert times == [None] * 4
