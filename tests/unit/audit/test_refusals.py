"""Refusals that a client repeats: the first at once, then their number, and none is forgotten."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workers.audit.refusals import OTHERS, PEERS_MAX, WINDOW_S, Refusals, peer_of


def refusal(address: str = "127.0.0.1:5000", **more: Any) -> dict[str, Any]:
    """Return the record of a request that was denied."""
    record = {
        "time_ms": 1000,
        "application": None,
        "address": address,
        "action": "denied",
        "user": "alice",
        "outcome": "denied",
        "command": "get_password",
    }
    return record | more


def test_the_first_is_recorded_at_once_and_the_rest_as_a_number() -> None:
    """A peer's thousand of a second are two records, and of the next second one."""
    refusals = Refusals()
    assert refusals.add(refusal(), 0.0) == refusal()
    for number in range(999):
        assert refusals.add(refusal(time_ms=2000), number / 1000) is None
    assert list(refusals.sum_up(WINDOW_S - 0.01)) == []
    assert list(refusals.sum_up(WINDOW_S)) == [refusal(time_ms=2000, times=999)]
    assert refusals.add(refusal(), WINDOW_S + 0.1) is None
    assert list(refusals.sum_up(2 * WINDOW_S)) == [refusal(times=1)]
    assert list(refusals.sum_up(3 * WINDOW_S)) == []
    assert refusals.add(refusal(), 3 * WINDOW_S) == refusal(), "it was forgotten"


def test_a_record_of_several_says_what_they_have_in_common() -> None:
    """A name, a command or a port that is not the same in all is in none of them."""
    refusals = Refusals()
    refusals.add(refusal(), 0.0)
    refusals.add(refusal(), 0.0)
    refusals.add(refusal("127.0.0.1:5001", times=5), 0.0)
    (same,) = refusals.sum_up(math.inf)
    assert same == refusal("127.0.0.1", times=6)
    refusals.add(refusal(), 0.0)
    refusals.add(refusal(user="bob", command="list_users"), 0.0)
    (other,) = refusals.sum_up(math.inf)
    del other["time_ms"]
    assert other == {
        "application": None,
        "address": "127.0.0.1:5000",
        "action": "denied",
        "user": None,
        "outcome": "denied",
        "times": 2,
    }


def test_applications_peers_and_kinds_are_told_apart() -> None:
    """What one does is not said of another."""
    refusals = Refusals()
    different = [
        refusal(),
        refusal(application="web"),
        refusal("127.0.0.2:5000"),
        refusal("unix:alice"),
        refusal(action="authentication"),
        refusal(action="verify", outcome="refused: too many were wrong"),
    ]
    for each in different:
        assert refusals.add(each, 0.0) == each


def test_a_peer_is_an_address_without_its_port() -> None:
    """Or a user of the Unix socket, or whatever else there is."""
    assert peer_of("127.0.0.1:5000") == "127.0.0.1"
    assert peer_of("[2001:db8::1]:5000") == "[2001:db8::1]"
    assert peer_of("unix:alice") == "unix:alice"
    assert peer_of("gone") == "gone"


def test_very_many_peers_are_counted_together() -> None:
    """Memory and the record stay bounded, and the number stays exact."""
    refusals = Refusals()
    addresses = [f"[2001:db8::{number:x}]:1" for number in range(5000)]
    at_once = [refusals.add(refusal(address), 0.0) for address in addresses]
    assert len(list(filter(None, at_once))) == PEERS_MAX + 1
    (others,) = refusals.sum_up(WINDOW_S)
    assert (others["address"], others["times"]) == (OTHERS, 5000 - PEERS_MAX - 1)
    assert len(refusals._repeated) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "unix:bob"]),
            st.sampled_from([None, "web"]),
            st.integers(1, 9),
            st.floats(0, 1.5),
        )
    )
)
def test_every_refusal_is_counted_once(
    arriving: list[tuple[str, str | None, int, float]],
) -> None:
    """Whenever they come and whenever the numbers are asked for."""
    refusals, now, recorded = Refusals(), 0.0, 0
    for address, application, times, pause_s in arriving:
        now += pause_s
        first = refusals.add(refusal(address, application=application, times=times), now)
        recorded += 0 if first is None else first["times"]
        recorded += sum(each["times"] for each in refusals.sum_up(now))
    recorded += sum(each["times"] for each in refusals.sum_up(math.inf))
    assert recorded == sum(times for _, _, times, _ in arriving)
