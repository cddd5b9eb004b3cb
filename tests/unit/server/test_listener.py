"""Which worker is given a new connection."""

import pytest

from pwserver.server.children import Child
from pwserver.server.listener import chosen, to_give_away


def a_place(number: int) -> Child:
    """Return a worker."""
    return Child(f"worker {number}", number, print, tuple)


WORKERS = [a_place(number) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("free", "state", "expected"),
    [
        ((5, 5, 5), "", 1),
        ((1, 5, 5), "", 1),
        ((0, 4, 5), "", 3),
        ((5, 4, 4), "busy", 1),
        ((3, 5, 4), "busy", 2),
        ((9, 1, 2), "slow", 3),
        ((9, 0, 0), "slow", 1),
        ((9, 1, 2), "tls", 3),
        ((9, 0, 0), "tls", 1),
        ((9, 0, 0), "busy", 1),
        ((9, 1, 2), "busy slow", 3),
        ((0, 0, 0), "", None),
        ((0, 0, 0), "slow tls", None),
        ((-1, 0, 2), "", 3),
        ((100, 115, 115), "", 1),
        ((100, 100, 116), "", 3),
    ],
)
def test_who_gets_a_connection(free: tuple[int, ...], state: str, expected: int | None) -> None:
    """The worker that writes while that is the quickest way, otherwise who has the most places."""
    places = dict(zip(WORKERS, free, strict=True))
    kept = {name: name in state.split() for name in ("slow", "busy", "tls")}
    worker = chosen(places, WORKERS[0], **kept)
    assert (None if worker is None else worker.number) == expected


@pytest.mark.parametrize("state", ["", "slow", "busy", "tls"])
def test_a_lone_worker_gets_all(state: str) -> None:
    """With one worker there is no choice."""
    kept = {name: name == state for name in ("slow", "busy", "tls")}
    assert chosen({WORKERS[0]: 3}, WORKERS[0], **kept) is WORKERS[0]


@pytest.mark.parametrize(
    ("free", "last", "expected"),
    [
        ((5, 9, 3), 2, (3, 7, 1)),
        ((2, 3, 0), 2, (0, 1, -2)),
        ((2, 1, 0), 2, (2, 1, 0)),
        ((1, 0, 3), 0, (1, 0, 3)),
    ],
)
def test_the_last_places_are_given_away_last(
    free: tuple[int, ...], last: int, expected: tuple[int, ...]
) -> None:
    """Clients without a token lose theirs there, so all workers fill the others first."""
    places = to_give_away(dict(zip(WORKERS, free, strict=True)), last)
    assert tuple(places.values()) == expected
