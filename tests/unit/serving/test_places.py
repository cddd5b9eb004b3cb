"""Who gives up its place when a worker has few left: 32 places, of which 4 are for tokens."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from pwserver.limits import TICK_S
from workers.auth.applications import GUEST, KNOWN, STRANGER, Caller
from workers.serving.connection import NEVER
from workers.serving.places import PATIENCE_S, Places

MOST, COMMON = 32, 28
NOW = 1000.0
APPLICATION = Caller("web", number=1, rights=frozenset({KNOWN}))


@dataclass(eq=False)
class Place:
    """A connection, as `Places` sees it, and its peer."""

    share: str = "one"
    caller: Caller = GUEST
    silent_since: float = NEVER
    closed: bool = False
    awaited: deque[Any] = field(default_factory=deque)

    @property
    def peer(self) -> "Place":
        """Return what has the share and the caller."""
        return self


def silent(number: int, since: float = 0.0, **more: Any) -> list[Place]:
    """Return connections that have been silent, each a little longer than the next one."""
    return [Place(silent_since=since + n, **more) for n in range(number)]


def ended(places: Places, connections: list[Place], now: float = NOW) -> list[Place]:
    """Have connections give way for those that came, and return them."""
    leaving: Any = places.giving_way(connections, len(connections), now)  # type: ignore[arg-type]
    return list(leaving)


def tick(places: Places, connections: list[Place], now: float = NOW) -> list[Place]:
    """Look after the places once a tick; return the connections that are to end."""
    leaving: Any = places.tick(connections, len(connections), now)  # type: ignore[arg-type]
    return list(leaving)


def come(places: Places, connections: list[Place], *newcomers: Place) -> None:
    """Have clients come when few places are left."""
    for each in newcomers:
        connections.append(each)
        places.came(each, NOW)  # type: ignore[arg-type]


def test_nobody_gives_way_while_there_is_room() -> None:
    """However long they have been silent."""
    places, connections = Places(MOST), silent(COMMON)
    assert not places.are_few(COMMON)
    assert places.are_few(COMMON + 1)
    assert ended(places, connections) == tick(places, connections) == []


def test_the_longest_silent_gives_way() -> None:
    """One more at once, so that the next client finds a place without a search."""
    places = Places(MOST)
    connections = [Place(), *silent(COMMON - 1), Place()]
    assert ended(places, connections) == connections[1:3]


def test_who_asks_or_waits_keeps_its_place_beside_its_own_peer() -> None:
    """The client that came may stay for a moment, and then as long as it shows a token."""
    places = Places(MOST)
    waits = Place(silent_since=0.0, awaited=deque([None]))
    connections = [waits, *[Place() for _ in range(COMMON - 1)]]
    one, other = Place(), Place()
    come(places, connections, one, other)
    assert ended(places, connections) == tick(places, connections) == []
    for each in connections:
        each.silent_since = NEVER
    one.caller = APPLICATION
    late = NOW + PATIENCE_S
    assert tick(places, connections, late) == [other]
    connections.remove(other)
    for each in connections:
        each.silent_since = NEVER
    assert tick(places, connections, late + PATIENCE_S) == []


def test_who_came_stays_if_there_is_room_by_then() -> None:
    """Nobody is turned away for having come at a bad moment."""
    places, connections = Places(MOST), [Place() for _ in range(COMMON)]
    come(places, connections, Place())
    del connections[0]
    assert tick(places, connections) == []
    connections.append(Place())
    for each in connections:
        each.silent_since = NEVER
    assert tick(places, connections, NOW + PATIENCE_S) == []


def test_with_no_place_left_who_came_makes_room_at_once() -> None:
    """So clients that come without end take the last places for a tick, not for seconds."""
    places, connections = Places(MOST), [Place() for _ in range(COMMON)]
    newcomers = [Place() for _ in range(MOST - COMMON)]
    come(places, connections, *newcomers)
    newcomers[0].caller = APPLICATION
    assert tick(places, connections, NOW + TICK_S / 2) == []
    assert tick(places, connections, NOW + TICK_S) == newcomers[1:]


def test_the_greatest_peer_gives_way() -> None:
    """Even if its clients are not silent, as far as it has more than its share."""
    places = Places(MOST)
    greedy = [Place("greedy") for _ in range(COMMON - 1)]
    connections = [*greedy, Place("two")]
    assert ended(places, connections) == []
    come(places, connections, Place("three"), Place("four"))
    assert ended(places, connections) == greedy[:2], "the newest ones may be about to show a token"


def test_nobody_gives_way_for_peers_that_have_more() -> None:
    """Peers that have their share keep it, however many others come."""
    places = Places(MOST)
    shared = [Place(share) for share in ("one", "two") for _ in range(COMMON // 2)]
    come(places, shared, Place("one"))
    assert ended(places, shared) == [shared[0]], "one has more than two"
    places = Places(MOST)
    many = [Place(f"{number}") for number in range(COMMON)]
    come(places, many, Place("late"))
    assert ended(places, many) == [], "each has one, and asks for something"


@pytest.mark.parametrize("guest", [GUEST, STRANGER, Caller.refused("web", "It is too late.")])
def test_who_has_no_token_gives_way_first(guest: Caller) -> None:
    """Clients with a token never give way here, however silent they are."""
    places = Places(MOST)
    applications = silent(COMMON, caller=APPLICATION)
    connections = [*applications, *silent(2, since=900.0, caller=guest)]
    assert ended(places, connections) == connections[-2:]
    assert ended(places, [*applications, *silent(2, caller=APPLICATION)]) == []


def test_nobody_is_looked_for_twice_in_a_tick() -> None:
    """A search takes a millisecond with thousands of connections."""
    places, connections = Places(MOST), [Place() for _ in range(COMMON + 1)]
    assert ended(places, connections) == []
    connections[3].silent_since = 0.0
    assert ended(places, connections) == []
    assert tick(places, connections) == [connections[3]]
    assert ended(places, connections) == [connections[3]]


def test_few_places_are_all_for_everybody() -> None:
    """A service with seven places keeps none back."""
    places = Places(7)
    assert not places.are_few(7)
    assert ended(places, silent(7)) == []
