"""Applications while the service runs: registered, given new tokens, revoked, and tampered with.

What each may do is the matter of `test_rights`, that they cannot see each other of
`test_isolation`.
"""

import contextlib
import errno
import itertools
import os
import sqlite3
import time
from base64 import urlsafe_b64encode as b64encode
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pwserver import trust
from pwserver.errors import AdministrationRefused
from pwserver.wire.messages import RIGHTS, Right
from tests.conftest import Start
from tests.support.books_wire import (
    ALIVE,
    COUNT,
    DENIED,
    PING,
    UNKNOWN_TOKEN,
    UNKNOWN_USER,
    Request,
    ask_all,
    denied,
    get,
    listing,
    names,
    on_each_worker,
    password_of,
    peer_from,
    peers_at,
    rows,
    save,
    saved,
)
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import Peer, Service, eventually
from workers.auth.applications import token_hash

_numbers = itertools.count(1)
DENIED_LINE = b'{"message":"Denied!","error":"The service does not accept the token."}\n'
NOTICED_S = 1.0
"""Within which open connections notice what an administrator has done."""


@pytest.fixture
def name() -> str:
    """Return the name of an application that no other test has."""
    return f"application {next(_numbers)}"


def authenticate(token: str) -> Request:
    """Return the message that shows a token."""
    return {"message": "authenticate", "token": token}


def authenticated(application: str, may: Sequence[Right] = RIGHTS) -> Request:
    """Return the reply to a good token."""
    return {"message": "Authenticated!", "application": application, "may": list(may)}


@contextlib.contextmanager
def connections_of(service: Service, *tokens: str) -> Iterator[list[Peer]]:
    """Give connections that have shown these tokens, each to both workers: two for each token."""
    number = len(tokens)
    with (
        peers_at(service, "worker 1", number) as some,
        peers_at(service, "worker 2", number) as more,
    ):
        peers = []
        for token, *pair in zip(tokens, some, more, strict=True):
            for peer in pair:
                assert peer.authenticate(token)["message"] == "Authenticated!"
            peers += pair
        yield peers


def is_lost(peer: Peer) -> bool:
    """Tell whether a connection may do nothing any more, not even what guests may, but ping."""
    replies = ask_all(peer, [listing(), save(), COUNT, PING])
    assert replies[3] == ALIVE
    lost: bool = replies[0] == DENIED
    if lost:
        assert replies[1:3] == [DENIED, DENIED]
    return lost


def all_are_lost(peers: Sequence[Peer]) -> bool:
    """Tell whether all of these connections may do nothing any more."""
    return all(is_lost(peer) for peer in peers)


# --- Tokens. ---


def test_a_token_says_who_it_is(shared_service: Service, name: str) -> None:
    """The reply has the name and the rights, in one order whatever they were given in."""
    may: list[Right] = ["delete", "count"]
    token = shared_service.add_application(name, may)
    with shared_service.peer() as peer:
        assert peer.authenticate(token) == authenticated(name, ["count", "delete"])
        again = peer.ask({**authenticate(token), "id": "again"})
        assert again == {**authenticated(name, ["count", "delete"]), "id": "again"}
        assert ask_all(peer, [save(), listing()]) == [DENIED, DENIED]
        assert peer.ask(COUNT)["message"] == "return_number_of_users"


def test_a_token_is_good_at_once_on_every_worker(shared_service: Service, name: str) -> None:
    """Who is registered while the service runs need not wait for anything."""
    with on_each_worker(shared_service) as workers:
        for number in range(10):
            token = shared_service.add_application(f"{name}.{number}")
            for peer in workers:
                assert peer.authenticate(token) == authenticated(f"{name}.{number}")


def test_only_the_whole_token_is_good(shared_service: Service, name: str) -> None:
    """What looks like one, and what is kept of one in the database, is `Denied!` to the byte."""
    token = shared_service.add_application(name)
    kept = token_hash(token)
    wrong = [
        *(UNKNOWN_TOKEN, token[:-1], f"{token}A", f" {token}", f"{token}\n", token.swapcase()),
        *(token.removeprefix("pwserver_"), "pwserver_", name),
        *(kept.hex(), f"pwserver_{kept.hex()}", f"pwserver_{b64encode(kept).decode()}"),
    ]
    for number, text in enumerate(wrong):  # each from a machine of its own, so that nobody waits
        with peer_from(shared_service, f"127.0.1.{number}") as peer:
            peer.send(authenticate(text), {**authenticate(text), "id": 5})
            assert peer.line() == DENIED_LINE, text
            assert peer.reply() == denied(id=5)
            assert peer.authenticate(token) == authenticated(name)


def test_a_wrong_token_leaves_no_rights_at_all(shared_service: Service, name: str) -> None:
    """Not even a guest's: what is sent behind it, without waiting, is not saved anywhere."""
    token = shared_service.add_application(name)
    everything = [save("a"), save(), COUNT, {"message": "generate_password"}, get("a"), listing()]
    with shared_service.owner() as owner, peer_from(shared_service, "127.0.2.1") as peer:
        before = owner.count(), names(owner)
        denied = [DENIED] * (1 + len(everything))
        assert ask_all(peer, [authenticate(UNKNOWN_TOKEN), *everything]) == denied
        assert peer.ask(PING) == ALIVE
        assert peer.authenticate(token) == authenticated(name)
        assert peer.ask(save("a")) == saved("a", 1)
        assert ask_all(peer, [authenticate(UNKNOWN_TOKEN), *everything]) == denied
        assert (owner.count(), names(owner)) == (before[0] + 1, before[1])


def test_a_burst_is_done_as_who_was_shown_before(shared_service: Service, name: str) -> None:
    """Tokens of two applications in one burst: each request is done as the last one before it."""
    one, other = (shared_service.add_application(f"{name}.{n}") for n in (1, 2))
    steps: list[tuple[Request, Request | str]] = [
        (authenticate(one), authenticated(f"{name}.1")),
        (save("a", "of one"), saved("a", 1)),
        (authenticate(other), authenticated(f"{name}.2")),
        (get("a"), UNKNOWN_USER),
        (save("a", "of the other"), saved("a", 1)),
        (authenticate(one), authenticated(f"{name}.1")),
        (get("a"), "of one"),
        (save("a", "of one"), saved("a", 2)),
        (authenticate(other), authenticated(f"{name}.2")),
        (get("a"), "of the other"),
    ]
    with shared_service.peer() as peer:
        replies = ask_all(peer, [request for request, _ in steps])
    for reply, (request, expected) in zip(replies, steps, strict=True):
        assert reply == expected or reply["password"] == expected, request


@BOTH_ENGINES
def test_tokens_outlive_the_processes(start: Start) -> None:
    """After the death of a worker, and after a stop, applications are who they were."""
    service = start()
    tokens = [service.add_application(name) for name in ("one", "other")]
    with connections_of(service, *tokens) as (first, *_):
        first.ask(save("a", "kept"))
    service.replace("worker 1")
    service.replace("worker 2")
    with connections_of(service, tokens[0]) as peers:
        assert [password_of(peer, "a") for peer in peers] == ["kept"] * 2
    assert service.stop() == 0
    with connections_of(start(), *tokens) as (one, *_, other):
        assert password_of(one, "a") == "kept"
        assert other.ask(get("a")) == UNKNOWN_USER


# --- New tokens. ---


def rotate(service: Service, name: str, grace_s: float) -> str:
    """Give an application a new token and return it."""
    with service.administration() as files:
        return files.rotate(name, grace_s).reveal()


def test_a_new_token_leaves_time_for_the_change(shared_service: Service, name: str) -> None:
    """For the grace period both are good, and no open connection notices; then one is."""
    old = shared_service.add_application(name)
    with connections_of(shared_service, old, old, old) as peers:
        peers[0].ask(save("a", "kept"))
        began = time.monotonic()
        new = rotate(shared_service, name, grace_s=1.5)
        for peer, token in zip(peers[2:], [old, old, new, new], strict=True):
            assert peer.authenticate(token) == authenticated(name)
        assert [password_of(peer, "a") for peer in peers] == ["kept"] * 6
        lost, kept = peers[:4], peers[4:]
        eventually(partial(all_are_lost, lost), "the old token is lost", 1.5 + NOTICED_S)
        assert time.monotonic() - began > 1.4, "it was good for as long as was said"
        assert [password_of(peer, "a") for peer in kept] == ["kept"] * 2
        for peer in kept:
            assert peer.authenticate(new) == authenticated(name)
            assert peer.authenticate(old) == DENIED


def test_without_a_grace_period_the_old_token_is_lost(shared_service: Service, name: str) -> None:
    """As when it was revoked; the new one is good at once."""
    old = shared_service.add_application(name)
    with connections_of(shared_service, old) as peers:
        new = rotate(shared_service, name, grace_s=0)
        eventually(partial(all_are_lost, peers), "the old token is lost", NOTICED_S)
        for peer in peers:
            assert peer.authenticate(old) == DENIED
            assert peer.authenticate(new) == authenticated(name)


def test_only_the_last_token_before_has_a_grace_period(shared_service: Service, name: str) -> None:
    """After a second change the first token is lost, however long its time was to be."""
    first = shared_service.add_application(name)
    second = rotate(shared_service, name, grace_s=3600)
    with connections_of(shared_service, first, second) as peers:
        third = rotate(shared_service, name, grace_s=3600)
        eventually(partial(all_are_lost, peers[:2]), "the first token is lost", NOTICED_S)
        assert not any(is_lost(peer) for peer in peers[2:])
        assert peers[0].authenticate(third) == authenticated(name)


# --- Revoking. ---


def revoke(service: Service, name: str) -> None:
    """Take an application's tokens away."""
    with service.administration() as files:
        files.revoke(name)


@BOTH_ENGINES
def test_open_connections_lose_a_revoked_token(shared_service: Service, name: str) -> None:
    """Within a second, by every worker, all tokens of it, and nobody else's."""
    old = shared_service.add_application(name)
    new = rotate(shared_service, name, grace_s=3600)
    other = shared_service.add_application(f"not {name}")
    with connections_of(shared_service, old, new, new, other) as (*peers, one, two):
        assert not any(is_lost(peer) for peer in peers)
        revoke(shared_service, name)
        eventually(partial(all_are_lost, peers), "the tokens are lost", NOTICED_S)
        for peer, token in zip(peers, [old, new] * 3, strict=True):
            assert peer.authenticate(token) == DENIED
        assert not is_lost(one)
        assert not is_lost(two)
        assert peers[0].authenticate(other) == authenticated(f"not {name}")


def test_a_revoked_application_gets_its_book_back(shared_service: Service, name: str) -> None:
    """With a new token all is there; connections that showed the old one stay without rights."""
    old = shared_service.add_application(name)
    with connections_of(shared_service, old) as peers:
        peers[0].ask(save("a", "kept"))
        revoke(shared_service, name)
        eventually(partial(all_are_lost, peers), "the token is lost", NOTICED_S)
        new = rotate(shared_service, name, grace_s=3600)
        with connections_of(shared_service, new) as again:
            assert [password_of(peer, "a") for peer in again] == ["kept"] * 2
        assert all_are_lost(peers)
        assert peers[1].authenticate(old) == DENIED
        assert peers[1].authenticate(new) == authenticated(name)
        assert password_of(peers[1], "a") == "kept"


def test_what_is_under_way_is_answered_once(shared_service: Service, name: str) -> None:
    """Revoked in the middle of saves, each is saved or denied, and from one moment on denied."""
    token = shared_service.add_application(name, common=True)
    with shared_service.owner() as owner, connections_of(shared_service, token) as peers:
        before, saves = owner.count(), 0
        revoked_at = time.monotonic()
        revoke(shared_service, name)
        for peer in peers:
            words: list[str] = []
            while words[-1:] != ["Denied!"]:
                assert time.monotonic() < revoked_at + NOTICED_S
                words += [reply["message"] for reply in ask_all(peer, [save()] * 20)]
            done = words.count("Password saved!")
            assert words == ["Password saved!"] * done + ["Denied!"] * (len(words) - done)
            saves += done
        assert owner.count() == before + saves


# --- Rows that were altered by who can write to the database, and has no key. ---

Alter = Callable[[sqlite3.Connection, str, str], None]
OWN_TOKEN = "pwserver_" + "B" * 43
"""A token that somebody made up, who can write to the database."""


def set_to(**values: Any) -> Alter:
    """Return an alteration of some columns."""

    def alter(database: sqlite3.Connection, name: str, other: str) -> None:
        columns = ", ".join(f"{column} = ?" for column in values)
        database.execute(
            f"UPDATE application SET {columns} WHERE name = ?", (*values.values(), name)
        )

    return alter


def with_seal_of_other(**values: Any) -> Alter:
    """Return an alteration of some columns, with the seal of another application."""

    def alter(database: sqlite3.Connection, name: str, other: str) -> None:
        set_to(**values)(database, name, other)
        query = "SELECT seal FROM application WHERE name = ?"
        ((seal,),) = database.execute(query, (other,)).fetchall()
        set_to(seal=seal)(database, name, other)

    return alter


def token_of_other(database: sqlite3.Connection, name: str, other: str) -> None:
    """Give an application the token of another."""
    query = "SELECT token_hash FROM application WHERE name = ?"
    ((kept,),) = database.execute(query, (other,)).fetchall()
    set_to(previous_hash=kept, previous_until_ms=2**53)(database, name, other)


BROKEN = ("name", "may", "networks", "book", "token_hash", "expires_ms", "seal")


def not_utf8(database: sqlite3.Connection, name: str, other: str) -> None:
    """Make texts of an application something that nobody can decode."""
    broken = ", ".join(f"{text} = CAST(x'61ff' AS TEXT)" for text in BROKEN)
    database.execute(f"UPDATE application SET {broken} WHERE name = ?", (name,))


def copied(database: sqlite3.Connection, name: str, other: str) -> None:
    """Put another's row in the place of an application, with a token and a name of one's own."""
    ((number,),) = database.execute("SELECT id FROM application WHERE name = ?", (name,)).fetchall()
    database.execute("DELETE FROM application WHERE id = ?", (number,))
    table = database.execute("SELECT name FROM pragma_table_info('application')")
    columns = ", ".join({column for (column,) in table} - {"id", "name", "token_hash"})
    database.execute(
        f"INSERT INTO application (id, name, token_hash, {columns}) "
        f"SELECT ?, 'copy of ' || name, ?, {columns} FROM application WHERE name = ?",
        (number, token_hash(OWN_TOKEN), other),
    )


def removed(database: sqlite3.Connection, name: str, other: str) -> None:
    """Remove an application."""
    database.execute("DELETE FROM application WHERE name = ?", (name,))


ALTERATIONS: dict[str, Alter] = {
    "all rights": set_to(may=" ".join(RIGHTS)),
    "the common book": set_to(book=0),
    "the book of another": set_to(book=1),
    "a token": set_to(token_hash=token_hash(OWN_TOKEN)),
    "a token before": set_to(previous_hash=token_hash(OWN_TOKEN), previous_until_ms=2**53),
    "the token of another": token_of_other,
    "another name": set_to(name="somebody else"),
    "another time": set_to(created_at_ms=0),
    "a later revision": set_to(revision=2**40),
    "no seal": set_to(may=" ".join(RIGHTS), seal=b""),
    "the seal of another": with_seal_of_other(may=" ".join(RIGHTS)),
    "other types": set_to(may=b"get", previous_until_ms="soon", revision="later"),
    "numbers for texts": set_to(may=5, seal="seal", book=1.5),
    "texts that are none": not_utf8,
    "a copy": copied,
}


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service for applications that are altered, beside one in book 1 that is not."""
    with Service(tmp_path_factory.mktemp("victim")) as service:
        service.wait_until_listening().add_application("untouched")
        yield service
        assert service.stop() == 0


@pytest.mark.parametrize("what", ALTERATIONS)
def test_an_altered_application_may_do_nothing(victim: Service, name: str, what: str) -> None:
    """Neither it nor who altered it, by any token, and it is logged; others notice nothing."""
    token = victim.add_application(name, ["count", "get"])
    other = victim.add_application(f"not {name}")
    with connections_of(victim, token, other) as (*peers, one, two):
        one.ask(save("a", "of the other"))
        by_name = "SELECT id FROM application WHERE name = ?"
        ((number,),) = rows(victim.database, by_name, name)
        _alter(victim.database, ALTERATIONS[what], name, f"not {name}")
        lost = [DENIED] * 2
        eventually(
            lambda: [peer.ask(COUNT) for peer in peers] == lost, "its token is lost", NOTICED_S
        )
        for peer in peers:
            assert peer.ask(get("a")) == DENIED
            with peer_from(victim, f"127.0.3.{next(_numbers) % 256}") as guesser:
                for shown in (token, OWN_TOKEN):
                    assert guesser.authenticate(shown) == DENIED
        for peer in (one, two):
            assert peer.authenticate(other) == authenticated(f"not {name}")
            assert password_of(peer, "a") == "of the other"
    assert f"application {number} was altered behind the service's back" in victim.stderr


def _alter(database: Path, alter: Alter, name: str, other: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        alter(connection, name, other)


def test_a_deleted_application_is_lost(victim: Service, name: str) -> None:
    """All that who can write to the database can do is to take it away."""
    token = victim.add_application(name)
    with connections_of(victim, token) as peers:
        _alter(victim.database, removed, name, "")
        eventually(partial(all_are_lost, peers), "the token is lost", NOTICED_S)


def test_an_administrator_gives_an_altered_application_no_token(victim: Service, name: str) -> None:
    """A new token would make what was altered genuine; so it is said, and nothing is done."""
    victim.add_application(name, ["count"])
    _alter(victim.database, set_to(may=" ".join(RIGHTS)), name, "")
    for change in (partial(rotate, grace_s=60), revoke):
        with pytest.raises(AdministrationRefused, match="was altered in the database"):
            change(victim, name)


# --- Old rows that were put back by who can write to the database. ---


def row_of(database: Path, name: str) -> tuple[Any, ...]:
    """Return an application's row."""
    (found,) = rows(database, "SELECT * FROM application WHERE name = ?", name)
    return tuple(found)


def put_back(database: Path, row: tuple[Any, ...]) -> None:
    """Write an application's row as it was before."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        places = ", ".join("?" * len(row))
        connection.execute(f"REPLACE INTO application VALUES ({places})", row)


def let_count(service: Service, name: str) -> None:
    """Leave an application the right to count, and no other."""
    with service.administration() as files:
        files.set_columns(name, may="count")


CHANGES: dict[str, Callable[[Service, str], object]] = {
    "revoke": revoke,
    "rotate": partial(rotate, grace_s=0),
    "set": let_count,
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_old_row_revives_nothing(start: Start, name: str, what: str) -> None:
    """It is genuine, but the last change is newer; so it is after a restart of the service."""
    service = start()
    token = service.add_application(name)
    other = service.add_application(f"not {name}")
    old = row_of(service.database, name)
    CHANGES[what](service, name)
    with service.peer() as peer:
        before = authenticated(name)
        eventually(lambda: peer.authenticate(token) != before, "it is changed", NOTICED_S)
        put_back(service.database, old)
        eventually(lambda: "is an old copy" in service.stderr, "it is noticed")
        eventually(lambda: peer.authenticate(token) == DENIED, "by each worker", NOTICED_S)
        assert peer.authenticate(other) == authenticated(f"not {name}")
    assert service.stop() == 0
    service = start()
    with service.peer() as peer:
        assert peer.authenticate(token) == DENIED
        assert peer.authenticate(other) == authenticated(f"not {name}")
    new = rotate(service, name, grace_s=0)  # an administrator can make it good again
    with service.peer() as peer:
        assert peer.authenticate(new) == authenticated(name)
        assert peer.authenticate(token) == DENIED


def test_no_change_makes_an_old_row_good(service: Service, name: str) -> None:
    """A seal of today on a token of before would revive it; with a new token it is not kept."""
    token = service.add_application(name)
    old = row_of(service.database, name)
    rotate(service, name, grace_s=0)
    put_back(service.database, old)
    with pytest.raises(AdministrationRefused, match="is an old copy"):
        let_count(service, name)
    new = rotate(service, name, grace_s=60)
    with service.peer() as peer:
        assert peer.authenticate(new) == authenticated(name)
        assert peer.authenticate(token) == DENIED


def test_the_number_of_a_deleted_row_stays_taken(service: Service, name: str) -> None:
    """Otherwise somebody who deletes a row gives its book to the next application."""
    with service.peer() as peer:
        peer.authenticate(service.add_application(name))
        assert ask_all(peer, [save("alice")]) == [saved("alice", 1)]
    with contextlib.closing(sqlite3.connect(service.database)) as connection, connection:
        connection.execute("DELETE FROM application WHERE name = ?", (name,))
    with service.peer() as peer:
        peer.authenticate(service.add_application(f"not {name}"))
        assert ask_all(peer, [get("alice")]) == [UNKNOWN_USER]


def test_a_change_cannot_be_undone_while_it_is_made(service: Service, name: str) -> None:
    """By somebody who puts the old row back before it is noted what was decided."""
    token = service.add_application(name)
    old = row_of(service.database, name)
    with service.administration() as files:
        changing = files.book.changing

        @contextlib.contextmanager
        def undone() -> Iterator[None]:
            with changing():
                yield
            put_back(service.database, old)

        files.book.changing = undone  # type: ignore[method-assign]
        files.revoke(name)
    with service.peer() as peer:
        eventually(lambda: peer.authenticate(token) == DENIED, "it is noticed", NOTICED_S)


def test_no_trigger_undoes_a_change(service: Service, name: str) -> None:
    """The database has none, unless somebody has added one who has no key."""
    token = service.add_application(name)
    with contextlib.closing(sqlite3.connect(service.database)) as connection, connection:
        connection.execute(
            "CREATE TRIGGER undoing BEFORE UPDATE ON application BEGIN SELECT RAISE(IGNORE); END"
        )
    try:
        revoke(service, name)
        assert row_of(service.database, name)[5] is None
    finally:
        with contextlib.closing(sqlite3.connect(service.database)) as connection, connection:
            connection.execute("DROP TRIGGER undoing")
    with service.peer() as peer:
        eventually(lambda: peer.authenticate(token) == DENIED, "it is revoked", NOTICED_S)


def test_a_removed_application_does_not_come_back(service: Service, name: str) -> None:
    """By the row that it had."""
    token = service.add_application(name)
    old = row_of(service.database, name)
    with service.administration() as files:
        number = files.mark_removed(name)
    with service.administration() as files:
        files.finish_removal(number)
    put_back(service.database, old)
    with service.peer() as peer:
        assert peer.authenticate(token) == DENIED
    with service.administration() as files:
        assert [files.is_old_copy(row) for row in files.applications()] == [True]


def test_a_change_that_could_be_undone_is_said(
    service: Service, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is newest cannot be written down; the change itself is made."""
    token = service.add_application(name)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trust, "replace", full)
    with pytest.raises(AdministrationRefused, match=r"is made, but .* No space left"):
        revoke(service, name)
    with service.peer() as peer:
        assert peer.authenticate(token) == DENIED
