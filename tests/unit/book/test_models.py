"""Ids and times, and rows as they are read."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.books import open_store, row_of, users
from workers.book.models import STORED_USER, IdClock, User, sql, stored_user, time_saved

NOW_NS = 1_770_000_000_000_000_000  # early in 2026
END_NS = 4_500_000_000_000_000_000  # in 2112

quick = settings(deadline=None, max_examples=100)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(0, END_NS)),
        st.tuples(st.just("after"), st.integers(0, 2**62)),
        st.tuples(st.just("next"), st.integers(1, 40)),
    )
)


@quick
@given(st.integers(0, 2047), STEPS)
def test_ids_always_grow(serial: int, steps: list[tuple[str, int]]) -> None:
    """Whatever the clock does, and whatever is in the database, an id is the greatest so far."""
    clock = IdClock(serial)
    clock.advance(NOW_NS)
    greatest = 0
    for step, value in steps:
        if step == "advance":
            clock.advance(value)
        elif step == "after":
            clock.after(value)
            greatest = max(greatest, value)
        else:
            for _ in range(value):
                user_id = clock.next()
                assert greatest < user_id < 2**63
                assert user_id % 2048 == serial
                greatest = user_id


@pytest.mark.parametrize("now_ns", [0, NOW_NS - 10**9, NOW_NS - 1000, NOW_NS, NOW_NS + 999])
def test_ids_grow_when_the_clock_stands_still_or_goes_back(now_ns: int) -> None:
    """A clock that is set back, or does not move on, makes no id twice and none smaller."""
    clock = IdClock(5)
    clock.advance(NOW_NS)
    before = [clock.next() for _ in range(100)]
    clock.advance(now_ns)
    after = [clock.next() for _ in range(100)]
    assert before + after == sorted(set(before + after))


def test_ids_follow_the_time() -> None:
    """The high 52 bits of an id are the microseconds since 1970, up to the year 2112."""
    clock = IdClock(2047)
    for now_ns in (NOW_NS, NOW_NS + 1000, END_NS - 1000):
        clock.advance(now_ns)
        assert clock.next() == (now_ns // 1000 << 11) + 2047
    assert END_NS // 1000 < 1 << 52
    assert datetime.fromtimestamp(END_NS // 10**9, UTC).year == 2112


@quick
@given(st.sets(st.integers(0, 2047), min_size=2, max_size=6), st.lists(st.integers(0, 3)))
def test_no_two_workers_share_an_id(serials: set[int], ticks: list[int]) -> None:
    """Workers with different serial numbers make different ids in the very same microseconds."""
    clocks = [IdClock(serial) for serial in serials]
    made: list[int] = []
    now_ns = NOW_NS
    for tick in ticks:
        now_ns += tick * 1000
        for clock in clocks:
            clock.advance(now_ns)
            made += [clock.next() for _ in range(3)]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("saved_at_ms", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (999, "1970-01-01T00:00:00Z"),
        (1000, "1970-01-01T00:00:01Z"),
        (1_709_208_000_000, "2024-02-29T12:00:00Z"),
        (1_700_000_000_999, "2023-11-14T22:13:20Z"),
    ],
)
def test_times_are_utc_to_the_second(
    saved_at_ms: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's time is shown as ISO 8601 in UTC, cut to the second, wherever the service runs."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "XXX-9")
        time.tzset()
        assert time.timezone == -9 * 3600
        shown = time_saved(saved_at_ms)
    time.tzset()
    assert shown == expected


def test_a_row_is_read_whatever_was_done_to_its_texts(tmp_path: Path) -> None:
    """Who goes through all rows meets texts that are none any more, and takes none for another."""
    store = open_store(tmp_path / "user_data.db")
    store.commit(users(1, 2, 3), [])
    whole = "UPDATE user SET username = 'Zo\u00eb', labels = '[]', older = x'00' WHERE id = 2"
    broken = "UPDATE user SET username = CAST(x'5a6fff' AS TEXT), labels = CAST(x'80' AS TEXT)"
    store.connection.execute(whole)
    store.connection.execute(f"{broken} WHERE id = 3")
    read = [stored_user(row) for row in store.connection.execute(sql(User.select(*STORED_USER)))]
    assert read[:2] == [row_of(store, 1), row_of(store, 2)]
    assert (read[1].username, read[1].labels) == ("Zo\u00eb", "[]")
    for text in (read[2].username, read[2].labels):
        assert text is not None
        with pytest.raises(UnicodeEncodeError):
            text.encode()
    store.close()
