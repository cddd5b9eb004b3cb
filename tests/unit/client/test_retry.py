"""The rules of repeating, for whatever gets lost: no sockets, no clock, a book in memory."""

import json
import time
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pwserver import ConnectionFailed, FateUnknown
from pwserver.client import commands
from pwserver.client.commands import Call
from pwserver.client.retry import PAUSE_S, PAUSE_S_MAX, Limits, RetriedCalls

KINDS: dict[str, Callable[[str], Call[Any]]] = {
    "read": commands.get_password,
    "save": lambda name: commands.save_password("x", username=name),
    "delete": commands.delete_user,
}


class Book:
    """A service that keeps its promise: a request id is acted upon once."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.request_ids: set[str] = set()

    def act(self, line: bytes) -> bytes:
        """Do one request and return its reply."""
        request: dict[str, Any] = json.loads(line)
        name = request["username"]
        if request.get("request_id") not in self.request_ids:
            self.done.append((request["message"].split("_")[0], name))
        if "request_id" in request:
            self.request_ids.add(request["request_id"])
        fields = {"username": name, "password": "x", "version": 1}
        time_saved = {"time_saved": "2026-11-22T17:20:01Z"}
        reply = {
            "get_password": {"message": "return_password", **fields, **time_saved},
            "save_password": {"message": "Password saved!", **fields},
            "delete_user": {"message": "User deleted!"},
        }[request["message"]]
        return json.dumps(reply).encode() + b"\n"


def attempt(exchange: RetriedCalls, book: Book, loss: tuple[int, int] | None) -> None:
    """Let so many requests be done and so many of them be answered; none: let nobody be there."""
    if loss is None:
        raise ConnectionFailed("cannot be reached.")
    done_max, answered_max = loss
    replies = [book.act(line) for line in exchange.request().splitlines()[:done_max]]
    for reply in replies[:answered_max]:
        exchange.take(reply)
    if exchange.awaiting:
        exchange.take(b"")


@given(
    kinds=st.lists(st.sampled_from(["read", "save", "delete"]), min_size=1, max_size=8),
    losses=st.lists(st.none() | st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=6),
)
def test_whatever_is_lost_each_is_done_at_most_once_and_told_truly(
    kinds: list[str], losses: list[tuple[int, int] | None]
) -> None:
    """Changes are done once, in order, if the result says so; and at most once if it is open."""
    asked = [KINDS[kind](f"{kind} {index}") for index, kind in enumerate(kinds)]
    exchange = RetriedCalls(asked, Limits(60, 1, 5))
    book = Book()
    ahead = iter(losses)
    while exchange.unfinished:
        try:
            attempt(exchange, book, next(ahead, (8, 8)))
        except ConnectionFailed as error:
            pause = exchange.failed(error)
            assert 0 <= pause <= PAUSE_S_MAX

    done = [int(name.split()[1]) for kind, name in book.done if kind != "get"]
    assert done == sorted(set(done))
    try:
        results = exchange.results()
    except ConnectionFailed as error:
        results = [error, *[FateUnknown("not told")] * (len(kinds) - 1)]
    for index, (kind, result) in enumerate(zip(kinds, results, strict=True)):
        if kind != "read" and not isinstance(result, FateUnknown):
            assert (index in done) == (not isinstance(result, ConnectionFailed))


def test_pauses_grow_up_to_a_bound() -> None:
    """A service that is gone for long is not asked ever more often, nor by all at once."""
    exchange = RetriedCalls([commands.ping()], Limits(86_400, 1, 20))
    pauses = [exchange.failed(ConnectionFailed("cannot be reached.")) for _ in range(19)]
    for number, pause in enumerate(pauses):
        longest = min(PAUSE_S * 2**number, PAUSE_S_MAX)
        assert longest / 2 <= pause <= longest
    assert len(set(pauses)) == len(pauses)
    assert exchange.unfinished
    assert exchange.failed(ConnectionFailed("cannot be reached.")) == 0
    assert not exchange.unfinished


def test_the_deadline_bounds_all_attempts_together() -> None:
    """No attempt moves it, and no pause is begun that would end after it."""
    exchange = RetriedCalls([commands.ping()], Limits(60, 1, 1000))
    deadline = exchange.deadline
    assert 59 < exchange.seconds_left <= 60
    assert exchange.failed(ConnectionFailed("cannot be reached.")) > 0
    assert exchange.deadline == deadline
    exchange.deadline = time.monotonic() + PAUSE_S / 2
    assert exchange.failed(ConnectionFailed("cannot be reached.")) == 0
    assert not exchange.unfinished
