"""One connection in a worker without its loop: who is gone, who is idle, who has wrong tokens."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver.accepted import Accepted
from pwserver.config import Settings
from pwserver.wire.messages import encode
from tests.support.planning import Planner
from workers.auth.applications import ANYBODY, KNOWN, Caller
from workers.auth.throttle import NAME
from workers.serving.authentication import WRONG_TOKENS_MAX
from workers.serving.commit_queue import DONE
from workers.serving.connection import UNWATCHED, Connection

RIGHTS = frozenset((ANYBODY, KNOWN, "save", "count", "get", "verify", "delete"))
PING = encode("ping")
SAVE = encode("save_password", password="abc123")
GET = encode("get_password", username="alice")
WRONG_TOKEN = encode("authenticate", token="wrong")
WRONG_PASSWORD = encode("verify_password", username="alice", password="wrong")
IDLE_S = 60.0


class Served:
    """A connection of an application, and the client's end of it."""

    def __init__(self, path: Path, *, guest: bool = False) -> None:
        self.planner = Planner(path)
        self.context = self.planner.context
        self.context.now = 1000.0
        self.client, served = socket.socketpair()
        for end in (self.client, served):
            end.setblocking(False)
        settings = Settings(idle_timeout_s=IDLE_S)
        self.connection = Connection(Accepted(served, ""), self.context, settings, set())
        if not guest:
            self.connection.peer.become(Caller("tests", rights=RIGHTS))

    def send(self, *lines: bytes) -> None:
        """Send lines, and have the worker receive them."""
        self.client.send(b"".join(lines))
        self.connection.receive()
        self.connection.flush()

    def commit(self) -> int:
        """Have the writer do what is queued; return how many rows and operations that were."""
        done = 0
        for batch in self.context.commit_queue.take():
            done += len(batch.rows) + len(batch.operations)
            batch.results = self.planner.store.commit(batch.rows, batch.operations)
            batch.outcome = DONE
            for run in batch.runs:
                run.settle(DONE)
            for waiter in self.context.name_queues.settle(batch, self.context.now):
                waiter.settle()
        self.connection.flush()
        return done

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.context.now += seconds
        for waiter in self.context.delays.expire(self.context.now):
            waiter.settle()
        self.connection.flush()

    def received(self) -> list[Any]:
        """Return the replies that have come."""
        try:
            received = self.client.recv(1 << 20)
        except BlockingIOError:
            return []
        return [json.loads(line) for line in received.splitlines()]

    def close(self) -> None:
        """Close both ends, and the book."""
        self.client.close()
        self.connection.close()
        self.planner.__exit__()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return a connection of an application."""
    made = Served(tmp_path / "book.db")
    yield made
    made.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Served]:
    """Return a connection of a guest."""
    made = Served(tmp_path / "book.db", guest=True)
    yield made
    made.close()


def test_an_altered_row_says_nothing_of_other_names(served: Served) -> None:
    """A name that nobody has is wrong, also where the row that is opened instead does not open."""
    served.send(encode("save_password", password="pw", username="bob"))
    served.commit()
    served.received()
    served.planner.store.connection.execute("UPDATE user SET sealed = zeroblob(64)")
    served.send(WRONG_PASSWORD, encode("verify_password", username="bob", password="pw"))
    wrong, altered = served.received()
    assert (wrong["message"], wrong.get("valid")) == ("return_verify_password", False)
    assert altered["message"] == "Unavailable!"


# --- Who is gone. ---


def test_who_is_gone_waits_for_changes_alone(served: Served) -> None:
    """Reads that are held and replies that are delayed are dropped; saves are done, in order."""
    named = [encode("save_password", password=f"p{n}", username="alice") for n in range(3)]
    served.send(*[WRONG_PASSWORD] * (NAME.allowance + 1))
    served.received()
    assert served.connection.unanswered == 1, "the last one is delayed"
    served.send(SAVE, GET, named[0], PING, named[1], GET, SAVE, named[2])
    assert served.connection.unanswered == 9
    served.connection.lose()
    assert served.connection.unanswered == 5, "three saves under a name, and two without"
    served.client.close()
    served.connection.receive()
    while served.commit():
        pass
    assert served.connection.closed
    assert (served.planner.row("alice").version, len(served.planner.names())) == (3, 3)
    served.later(10.0)  # the delayed reply is nobody's


def test_what_was_sent_before_a_reset_is_still_saved(served: Served) -> None:
    """What the socket still holds is read; of that as well only changes are done."""
    served.client.send(SAVE + GET + PING + SAVE)
    served.client.close()
    served.connection.lose()
    assert not served.connection.closed
    served.connection.receive()
    assert served.connection.unanswered == 2
    served.connection.receive()
    assert served.commit() == 2
    assert served.connection.closed


def test_who_is_gone_keeps_its_name_for_the_saves_behind(served: Served) -> None:
    """A token that was shown between two saves counts for the second, although nobody hears."""
    served.send(SAVE, WRONG_TOKEN, SAVE)
    served.connection.lose()
    served.client.close()
    served.connection.receive()
    assert served.commit() == 1, "after the wrong token the second save is denied"
    assert served.connection.closed


def test_who_is_gone_is_watched_only_while_something_is_read(served: Served) -> None:
    """Epoll reports a reset again and again, so a connection that only waits is not watched."""
    served.send(SAVE)
    served.connection.lose()
    assert served.connection.wants > 0, "there may be more to read"
    served.client.close()
    served.connection.receive()
    assert served.connection.wants == UNWATCHED
    assert served.commit() == 1
    assert served.connection.closed


# --- Who is idle. ---


@pytest.mark.parametrize(
    "nothing",
    [PING, GET, WRONG_TOKEN, encode("what"), encode("save_password"), b"hello\n"],
    ids=["ping", "denied", "wrong token", "unknown", "invalid", "bad"],
)
def test_who_asks_for_nothing_is_idle(guest: Served, nothing: bytes) -> None:
    """Pings, denied requests and what is no request keep no place."""
    guest.send(SAVE)
    assert guest.commit() == 1
    for _ in range(2):
        assert not guest.connection.is_unused(guest.context.now)
        guest.later(IDLE_S / 2 + 1)
        guest.send(nothing)
        guest.later(10.0)
    assert guest.connection.is_unused(guest.context.now)


@pytest.mark.parametrize("asked", [SAVE, encode("number_of_users"), encode("generate_password")])
def test_who_asks_for_something_is_not(guest: Served, asked: bytes) -> None:
    """Each request of a guest that is done keeps its place for as long again."""
    for _ in range(4):
        guest.send(PING, asked)
        guest.commit()
        assert not guest.connection.is_unused(guest.context.now)
        guest.later(IDLE_S - 1)
        assert not guest.connection.is_unused(guest.context.now)


# --- Wrong tokens. ---


def test_a_burst_of_wrong_tokens_costs_few_delays(guest: Served) -> None:
    """After the last that is looked at, the others are denied at once, and the connection ends."""
    guest.send(*[WRONG_TOKEN, PING] * 100)
    peer = guest.connection.peer
    assert peer.wrong_tokens == WRONG_TOKENS_MAX
    assert peer.authenticating.delay_s(guest.context.now) == 0.0, "few were counted"
    replies = guest.received()
    assert [reply["message"] for reply in replies] == ["Denied!", "Alive!"] * 100
    assert len({reply.get("error") for reply in replies}) == 3
    assert guest.connection.ending
    assert guest.client.recv(1) == b""


# --- A connection that goes to another process. ---


def test_a_guests_connection_moves_once_it_is_answered(guest: Served) -> None:
    """What was received is done here; what arrives after it is left in the socket."""
    guest.send(SAVE)
    assert guest.connection.move()
    assert not guest.connection.movable
    guest.send(PING)
    assert guest.commit() == 1
    assert [each["message"] for each in guest.received()] == ["Password saved!"]
    assert guest.connection.movable
    moved = guest.connection.release().socket
    assert guest.connection.closed
    assert moved.recv(100) == PING


def test_the_rest_of_a_message_is_waited_for(guest: Served) -> None:
    """Another process could make nothing of it; but who does not send it holds up nobody."""
    guest.send(PING[:5])
    assert guest.connection.move()
    assert not guest.connection.movable
    guest.send(PING[5:])
    assert guest.connection.movable
    assert [each["message"] for each in guest.received()] == ["Alive!"]


def test_half_a_message_is_not_waited_for_without_end(guest: Served) -> None:
    """After a second the connection ends as at a stop."""
    guest.send(PING[:5])
    assert guest.connection.move()
    guest.context.now += 1.1
    guest.connection.expire(guest.context.now)
    guest.connection.flush()
    assert [each["message"] for each in guest.received()] == ["Invalid message!"]
    assert guest.connection.lingering


def test_an_applications_connection_does_not_move(served: Served) -> None:
    """Its identity may be revoked, and is known here alone."""
    assert not served.connection.move()
