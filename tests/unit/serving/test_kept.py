"""Bytes that connections keep: their sum is bounded, and who keeps the most ends first."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from select import EPOLLIN
from typing import Any

import pytest

from pwserver.limits import NAME_BYTES_MAX
from pwserver.wire.messages import RIGHTS, encode
from tests.unit.serving.test_connection import Served
from workers.auth.applications import GUEST, Caller
from workers.auth.throttle import NAME
from workers.serving.kept import TOO_MUCH, Kept


@dataclass(eq=False)
class Keeper:
    """A connection, as `Kept` sees it, and its peer."""

    share: str
    caller: Caller = GUEST
    kept: int = 0
    closed: bool = False

    @property
    def peer(self) -> "Keeper":
        """Return what has the share and the caller."""
        return self


def keeping(kept: Kept, share: str, *sizes: int, **more: Any) -> list[Keeper]:
    """Return connections of a peer that keep so many bytes."""
    keepers = [Keeper(share, **more) for _ in sizes]
    for keeper, size in zip(keepers, sizes, strict=True):
        kept.note(keeper, size)  # type: ignore[arg-type]
    return keepers


def test_the_sum_follows_each_connection() -> None:
    """What is noted again takes the place of what was noted before."""
    kept: Any = Kept(100)
    one, two = keeping(kept, "peer", 60, 40)
    assert kept.total == 100
    assert not kept.is_too_much
    kept.note(two, 41)
    assert kept.is_too_much
    kept.note(one, 0)
    assert (kept.total, two.kept) == (41, 41)
    kept.note(two, 0)
    assert kept.total == 0


def test_the_greatest_of_the_greatest_peer_end() -> None:
    """Until three quarters are left; who keeps much alone is not the greatest peer."""
    kept: Any = Kept(100)
    keeping(kept, "alone", 30)
    keeping(kept, "same machine", 25, caller=Caller("web", number=1))
    many = keeping(kept, "many", 20, 21, 22)
    assert kept.to_end() == [many[2], many[1]]
    for each in many[1:]:
        each.closed = True
    assert kept.to_end()[0].kept == 30, "what is closed cannot end again"


# --- Who is read. ---


def test_who_keeps_more_than_its_share_is_not_read(served: Served) -> None:
    """A connection may keep a sixteenth of what is free, so the more there are the less each."""
    kept = served.context.kept = Kept(1600)
    connection = served.connection
    kept.note(connection, 95)
    assert connection.wants == EPOLLIN, "it has begun a message, and may send the rest"
    served.send(encode("save_password", password="x"))
    assert connection.wants == 0
    kept.note(connection, 94)
    assert connection.wants == EPOLLIN
    kept.note(connection, 0)
    keeping(kept, "others", 1600)
    assert connection.wants == EPOLLIN, "who keeps nothing is always read"


def test_listings_wait_until_their_client_takes_the_replies(served: Served) -> None:
    """What would make more of them is not done while more than a share waits for the client."""
    served.context.kept = Kept(16 * 600_000)
    served.connection.peer.become(Caller("tests", rights=frozenset(RIGHTS)))
    for number in range(20):
        served.send(
            encode(
                "save_password",
                password="x",
                username=f"{number}",
                labels=[f"{label}" + "x" * 60 for label in range(16)],
            )
        )
        served.commit()
    served.context.until = 0.0  # one at a time
    served.send(encode("ping"), encode("list_users") * 100)
    turns = 0
    while served.connection.more_to_do:
        served.connection.go_on()
        served.connection.flush()
        served.context.kept.note(served.connection, served.connection.weight)
        turns += 1
    assert 0 < turns < 100
    assert 500_000 < served.connection.weight < 700_000


# --- How much a connection keeps. ---


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return a connection of an application."""
    made = Served(tmp_path / "book.db")
    yield made
    made.close()


@pytest.mark.parametrize("letter", ["x", "é", "€", "😀"])
def test_what_is_held_back_counts(served: Served, letter: str) -> None:
    """At least what the texts take in memory, until they are done; also if they come in parts."""
    password = letter + "x" * 3000
    saves = encode("save_password", password=password) * 2
    served.send(encode("save_password", password="x"), encode("get_password", username="a"))
    for part in (saves[:10], saves[10:4000], saves[4000:]):
        served.send(part)
    wide = {1: 1, 2: 1, 3: 2, 4: 4}[len(letter.encode())]
    assert served.connection.weight > 2 * 3000 * wide
    while served.commit():
        pass
    assert served.connection.weight == 0
    assert len(served.received()) == 4


def test_what_is_answered_keeps_its_reply_alone(served: Served) -> None:
    """A save that was done, or refused, waits for a delayed guess, and its password does not."""
    guess = encode("verify_password", username="a", password="x")
    served.send(*[guess] * (NAME.allowance + 1))
    password = "x" * 4000
    for number in range(2 * NAME_BYTES_MAX // len(password)):
        served.send(encode("save_password", username="hot", password=password))
        if number == 10:
            assert served.commit() == 1
    assert len(served.connection.awaited) > 1000
    answered = [each for each in served.connection.awaited if each.reply is not None]
    assert len(answered) > 500
    assert not [each for each in answered if len(vars(each).get("_password", "")) > 100]
    assert served.connection.weight > 500 * 100


def test_an_unfinished_message_counts(served: Served) -> None:
    """A client may take its time for it."""
    served.send(encode("save_password", password="x" * 4000)[:3000])
    assert served.connection.weight == 3000


def test_who_must_end_is_told_why(served: Served) -> None:
    """If no reply is unfinished; what it saves is done, and nothing is kept for it."""
    served.connection.turn_out(TOO_MUCH)
    (said,) = served.received()
    assert said == {"message": "Unavailable!", "error": TOO_MUCH}
    assert served.client.recv(1) == b""
    assert served.connection.closed
    assert served.connection.weight == 0


def test_what_was_begun_is_done_for_who_must_end(served: Served) -> None:
    """A save is saved although nobody hears of it; a read is dropped."""
    served.send(encode("save_password", password="x"), encode("get_password", username="a"))
    served.connection.turn_out(TOO_MUCH)
    assert served.client.recv(1000) == b""
    assert served.commit() == 1
    assert served.connection.weight == 0
