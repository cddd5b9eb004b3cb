"""The limits on guessing, without a service: levels, delays, and several workers on one table."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.processes import CONTEXT
from workers.auth.throttle import (
    APPLICATION,
    DELAY_S_MAX,
    DELAYS_S,
    NAME,
    PARTS,
    ROWS,
    TOKENS,
    GuessTable,
    Key,
    Kind,
    Limit,
    Throttle,
)

KINDS = [TOKENS, NAME, APPLICATION]
NOW = 1_000_000.0  # twelve days after the machine was started
HERE = "192.0.2.1"


def workers_of(number: int) -> list[Throttle]:
    """Return one table as each of so many workers sees it; who shares a row is always the same."""
    table = GuessTable(number)
    table.seed = b"a seed for tests"
    return [Throttle(table, worker) for worker in range(1, number + 1)]


def guess_wrong(limit: Limit, times: int, now: float = NOW) -> None:
    """Guess wrong so many times at once."""
    for _ in range(times):
        limit.charge(now)


def after(kind: Kind, seconds: float, wrong: int) -> float | None:
    """Return the delay some seconds after so many wrong guesses."""
    (guesses,) = workers_of(1)
    limit = guesses.limit((kind, "web", HERE))
    guess_wrong(limit, wrong)
    return limit.delay_s(NOW + seconds)


# --- One row. ---


@pytest.mark.parametrize("kind", KINDS)
def test_delays_double_beyond_the_allowance(kind: Kind) -> None:
    """Up to the allowance nobody waits; then each waits twice as long, and then all are refused."""
    (guesses,) = workers_of(1)
    limit = guesses.limit((kind, "web", HERE))
    delays = []
    for _ in range(kind.allowance + len(DELAYS_S) + 2):
        delays.append(limit.delay_s(NOW))
        limit.charge(NOW)
    assert delays == [0.0] * kind.allowance + [*DELAYS_S, None, None]
    assert [*DELAYS_S] == [0.25 * 2**n for n in range(len(DELAYS_S))]
    assert DELAYS_S[-1] == DELAY_S_MAX


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_guesses_are_forgotten(kind: Kind) -> None:
    """Each takes its time to be forgotten, and once all are it is as if there had been none."""
    full = kind.allowance + len(DELAYS_S)
    one = 1 / kind.forgotten_per_s
    assert after(kind, 0, full) is None
    delays = [after(kind, (gone + 0.5) * one, full) for gone in range(len(DELAYS_S) + 1)]
    assert delays == [*reversed(DELAYS_S), 0.0]
    assert full * one <= 15

    (guesses,) = workers_of(1)
    limit = guesses.limit((kind, "web", HERE))
    guess_wrong(limit, full)
    later = NOW + (full + 1000) * one
    guess_wrong(limit, kind.allowance - 1, later)
    assert limit.delay_s(later) == 0.0  # a long rest leaves no debt,
    limit.charge(later)
    assert limit.delay_s(later) == DELAYS_S[0]  # and no credit


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which worker
        st.sampled_from(["charge", "charge", "charge", "refund", "look"]),
        st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.0, 4.0, 60.0]),  # seconds later
    ),
    max_size=120,
)


@settings(deadline=None)
@given(st.sampled_from(KINDS), STEPS)
def test_several_workers_are_as_one(kind: Kind, steps: list[tuple[int, str, float]]) -> None:
    """Whichever worker charges, refunds or asks, all see the level of one leaky bucket."""
    limits = [guesses.limit((kind, "web", HERE)) for guesses in workers_of(3)]
    now, level = NOW, 0.0
    for worker, step, pause_s in steps:
        now += pause_s
        level = max(0.0, level - pause_s * kind.forgotten_per_s)
        if step == "charge":
            limits[worker].charge(now)
            level += 1
        elif step == "refund":
            limits[worker].refund()
            level = max(0.0, level - 1)
        excess = int(level - kind.allowance) if level >= kind.allowance else -1
        expected = 0.0 if excess < 0 else (*DELAYS_S, *[None] * 120)[excess]
        assert [limit.delay_s(now) for limit in limits] == [expected] * 3


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.0, 2.0]), min_size=50, max_size=150))
def test_nobody_guesses_faster_than_is_forgotten(pauses: list[float]) -> None:
    """However guesses are timed and spread, what is tried is bounded by the time that it took."""
    limits = [guesses.limit((NAME, "web", "alice")) for guesses in workers_of(2)]
    now, tried = NOW, 0
    for number, pause_s in enumerate(pauses):
        now += pause_s
        limit = limits[number % 2]
        if limit.delay_s(now) is not None:
            limit.charge(now)
            tried += 1
    most = NAME.allowance + len(DELAYS_S) + (now - NOW) * NAME.forgotten_per_s
    assert tried <= most + 1  # one that is partly forgotten makes room for another


def test_guesses_that_wait_count_already() -> None:
    """Of many guesses at once only a few wait, and those that were right are taken back."""
    first, second = (guesses.limit((NAME, "web", "alice")) for guesses in workers_of(2))
    guess_wrong(first, NAME.allowance)
    waiting = []
    for limit in [first, second] * 20:
        delay_s = limit.delay_s(NOW)
        if delay_s:
            limit.charge(NOW)
            waiting.append((limit, delay_s))
    assert [delay_s for _, delay_s in waiting] == list(DELAYS_S)
    for limit, _ in waiting:
        limit.refund()
    assert second.delay_s(NOW) == DELAYS_S[0]


# --- What has a row of its own. ---


def test_keys_are_limited_apart() -> None:
    """Another kind, application, name or address is not held up."""
    (guesses,) = workers_of(1)
    guess_wrong(guesses.limit((NAME, "web", "alice")), 100)
    assert guesses.limit((NAME, "web", "alice")).delay_s(NOW) is None
    others: list[Key] = [
        (NAME, "web", "bob"),
        (NAME, "shop", "alice"),
        (NAME, "", "alice"),
        (NAME, "web" + "alice", ""),
        (TOKENS, "web", "alice"),
        (APPLICATION, "web", "alice"),
    ]
    assert [key for key in others if guesses.limit(key).delay_s(NOW) != 0.0] == []


def test_a_kind_cannot_fill_the_rows_of_another() -> None:
    """Who has no token may have many addresses, and holds up no application with them."""
    (guesses,) = workers_of(1)
    for number in range(40_000):
        guess_wrong(guesses.limit((TOKENS, "", f"2001:db8:0:{number:x}::1")), 4)
    assert guesses.limit((TOKENS, "", HERE)).delay_s(NOW) is None  # all rows of that kind are full
    assert verifying(guesses, "web", "alice").delay_s(NOW) == 0.0


def verifying(guesses: Throttle, application: str, name: str) -> Limit:
    """Return the limit on guesses at a name."""
    return guesses.limit((APPLICATION, application, ""), (NAME, application, name))


def try_until_refused(guesses: Throttle, names: list[str], now: float) -> None:
    """Guess at names of one application, each as long as it is let."""
    for name in names:
        limit = verifying(guesses, "evil", name)
        while limit.delay_s(now) is not None:
            limit.charge(now)


def test_one_name_does_not_use_up_the_application() -> None:
    """However long somebody guesses at one name, the others are answered at once."""
    (guesses,) = workers_of(1)
    alice, bob = (verifying(guesses, "web", name) for name in ("alice", "bob"))
    now = NOW
    for _ in range(1000):
        if alice.delay_s(now) is not None:
            alice.charge(now)
        assert bob.delay_s(now) == 0.0
        now += 0.05
    assert alice.delay_s(now) != 0.0


def test_names_that_nobody_has_hold_up_nobody() -> None:
    """Who guesses at ever new names, as fast as one application may, shares no name's rows.

    A name is held up if all its rows are full. So it is less likely than that one row is.
    """
    (guesses,) = workers_of(1)
    now = NOW
    for second in range(20):
        names = [f"{second} {number}" for number in range(100)]
        try_until_refused(guesses, names, now)
        now += 1
    held_up = [
        name
        for name in map(str, range(5000))
        if guesses.limit((NAME, "web", name)).delay_s(now) != 0.0
    ]
    assert len(held_up) < 5


def test_a_name_is_held_up_only_if_all_its_rows_are_shared() -> None:
    """With an eighth of the rows full, an eighth of an eighth of an eighth of the names are."""
    (guesses,) = workers_of(1)
    for number in range(ROWS // 8):
        guess_wrong(guesses.limit((NAME, "evil", str(number))), 16)
    names = (guesses.limit((NAME, "web", str(number))) for number in range(20_000))
    held_up = sum(limit.delay_s(NOW) is None for limit in names)
    assert held_up < 4 * 20_000 / 8**PARTS
    assert held_up > 0, "the rows are shared: there are not so many"


def test_a_limit_of_two_keys_is_as_strict_as_the_stricter() -> None:
    """Many names together reach the application's limit, with the longer of both delays."""
    (guesses,) = workers_of(1)
    names = [str(number) for number in range(APPLICATION.allowance // 5 + 1)]
    limits = [verifying(guesses, "web", name) for name in names]
    for limit in limits[:-1]:
        guess_wrong(limit, 5)
    assert limits[-1].delay_s(NOW) == DELAYS_S[0]
    guess_wrong(guesses.limit((NAME, "web", names[-1])), 12)
    assert limits[-1].delay_s(NOW) == DELAYS_S[2]
    guess_wrong(guesses.limit((APPLICATION, "web", "")), 5)
    assert limits[0].delay_s(NOW) is None
    assert verifying(guesses, "shop", names[-1]).delay_s(NOW) == 0.0


def test_a_name_is_no_address() -> None:
    """Names that look like addresses of one network are different names."""
    (guesses,) = workers_of(1)
    guess_wrong(guesses.limit((NAME, "web", "2001:db8:1:2::1")), 100)
    assert guesses.limit((NAME, "web", "2001:db8:1:2::2")).delay_s(NOW) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unix:alice", "unix:bob", False),
        ("unix:alice", "unix:alice", True),
    ],
)
def test_who_counts_as_one(one: str, other: str, same: bool) -> None:
    """IPv6 counts by the /64, IPv4 is IPv4 however it is written, and a user is a user."""
    (guesses,) = workers_of(1)
    guess_wrong(guesses.limit((TOKENS, "", one)), 100)
    assert (guesses.limit((TOKENS, "", other)).delay_s(NOW) is None) == same


def test_nobody_knows_who_shares_a_row() -> None:
    """What shares a row in one service does not in the next, whoever chose it."""
    held_up = []
    for _ in range(2):
        guesses = Throttle(GuessTable(1), 1)
        for number in range(ROWS // 8):
            guess_wrong(guesses.limit((TOKENS, "", f"unix:full {number}")), 16)
        keys = range(10_000)
        limits = (guesses.limit((TOKENS, "", f"unix:{key}")) for key in keys)
        held_up.append({key for key, limit in enumerate(limits) if limit.delay_s(NOW) is None})
    assert held_up[0] != held_up[1]


# --- Processes. ---


def guess_in_a_process(table: GuessTable, worker: int, times: int, results: Any) -> None:
    """Guess wrong in turns with the others, as a worker does, and say what was waited for."""
    limit = Throttle(table, worker).limit((NAME, "web", "alice"))
    delays = []
    for _ in range(times):
        delay_s = limit.delay_s(time.monotonic())
        delays.append(delay_s)
        if delay_s is not None:
            limit.charge(time.monotonic())
    results.put(delays)


def test_processes_share_what_they_know() -> None:
    """Guesses over several workers at once get what one would get, and hardly more."""
    table = GuessTable(4)
    results = CONTEXT.Queue()
    began = time.monotonic()
    children = [
        CONTEXT.Process(target=guess_in_a_process, args=(table, worker, 200, results))
        for worker in range(1, 5)
    ]
    for child in children:
        child.start()
    delays = [delay for _ in children for delay in results.get(timeout=120)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    forgotten = (time.monotonic() - began) * NAME.forgotten_per_s
    tried = sum(delay is not None for delay in delays)
    reached = NAME.allowance + len(DELAYS_S)
    assert reached <= tried <= reached + forgotten + len(children)  # each may overlook one
    assert tried < len(delays) == 800
