"""Two applications cannot see each other: by no command, no error and no listing of theirs.

Whatever one asks for that only the other has is answered with the bytes of what nobody has, and
changes nothing of the other's. The common book is one more, which has readers of its own.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pwserver.limits import PAGE_ROWS_MAX
from pwserver.wire import messages
from tests.conftest import Start
from tests.support.books_wire import (
    COUNT,
    DELETED,
    DENIED,
    UNKNOWN_USER,
    Request,
    ask_all,
    delete,
    generated_names,
    get,
    history,
    label,
    listing,
    names,
    pages,
    password_of,
    restore,
    save,
    saved,
    verify,
    versions_of,
)
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import Peer, Service
from workers.book.names import generated_id, generated_name

pytestmark = BOTH_ENGINES

_numbers = itertools.count(1)
THEIRS = "theirs"
"""A password and a label of what the other has."""
GENERATE: Request = {"message": "generate_password", "alphabet": "ab", "length": 8}

REQUESTS: dict[str, Callable[[str, str], Request]] = {
    "save": lambda name, _: save(name, "mine"),
    "save with labels": lambda name, _: save(name, "mine", labels=["x"]),
    "save with a request_id": lambda name, id: save(name, "mine", request_id=id),
    "save without a name": lambda _, id: save(password="mine", request_id=id),
    "get": lambda name, _: get(name),
    "get a version": lambda name, _: get(name, version=1),
    "get no version": lambda name, _: get(name, version=99),
    "verify": lambda name, _: verify(name, THEIRS),
    "history": lambda name, _: history(name),
    "restore": lambda name, _: restore(name, 1),
    "restore no version": lambda name, _: restore(name, 99),
    "restore with a request_id": lambda name, id: restore(name, 1, request_id=id),
    "label": lambda name, _: label(name, "x"),
    "delete": lambda name, _: delete(name),
    "list behind it": lambda name, _: listing(after=name, limit=5),
    "list from it on": lambda name, _: listing(prefix=name),
    "list by its beginning": lambda name, _: listing(prefix=name[:9], limit=5),
    "list by a label": lambda name, _: listing(prefix=name, label=THEIRS),
    "generate": lambda name, _: {**GENERATE, "username": name},
    "generate with a request_id": lambda name, id: {**GENERATE, "username": name, "request_id": id},
    "check": lambda name, _: {"message": "check_password", "password": name},
    "count": lambda *_: COUNT,
}
"""Every command that could tell something, asked with a name and a `request_id`."""


@dataclass(frozen=True)
class Book:
    """A connection of an application, and what was put into its book."""

    peer: Peer
    chosen: str
    generated: str
    request_ids: tuple[str, ...]  # one for each kind of save

    @property
    def names_beside(self) -> list[tuple[str, str]]:
        """The names of its users, each with one that nobody has and that sorts right behind it."""
        beside = generated_name((generated_id(self.generated) or 0) + 1)
        return [(self.chosen, f"{self.chosen}!"), (self.generated, beside)]

    def content(self) -> list[Any]:
        """Return what can be read of it: equal, if nothing has touched it."""
        found = [names(self.peer), names(self.peer, label=THEIRS)]
        for name in (self.chosen, self.generated):
            found.append(self.peer.ask(history(name)))
            for version in versions_of(self.peer, name):
                found.append(self.peer.ask(get(name, version=version)))
        return found


def make_book(peer: Peer) -> Book:
    """Save a user with a name and one without, under names and ids that nobody else has."""
    number = next(_numbers)
    chosen = f"known {number:03}"
    ids = tuple(f"id {number}.{n}" for n in range(4))
    before = set(generated_names(peer))
    replies = ask_all(
        peer,
        [
            save(chosen, THEIRS, labels=[THEIRS], request_id=ids[0]),
            save(password=THEIRS, labels=[THEIRS], request_id=ids[1]),
            {**GENERATE, "username": chosen, "request_id": ids[2]},
            restore(chosen, 1, request_id=ids[3]),
        ],
    )
    assert not [reply for reply in replies if "error" in reply]
    (generated,) = set(generated_names(peer)) - before
    return Book(peer, chosen, generated, ids)


@pytest.fixture(scope="module")
def tokens(shared_service: Service) -> dict[str, str]:
    """Return the tokens of two applications with a book each, and of one with the common book."""
    own = {name: shared_service.add_application(name) for name in ("one", "other")}
    return {**own, "common": shared_service.token}


@pytest.fixture
def peers(shared_service: Service, tokens: dict[str, str]) -> Iterator[dict[str, Peer]]:
    """Yield a connection of each."""
    with (
        shared_service.peer() as one,
        shared_service.peer() as other,
        shared_service.peer() as all_,
    ):
        found = {"one": one, "other": other, "common": all_}
        for name, peer in found.items():
            assert peer.authenticate(tokens[name])["application"]
        yield found


# --- What only the other has is what nobody has. ---


@pytest.mark.parametrize(
    ("asking", "having"),
    [("one", "other"), ("other", "one"), ("one", "common"), ("common", "one")],
)
@pytest.mark.parametrize("command", REQUESTS)
def test_what_others_have_is_what_nobody_has(
    peers: dict[str, Peer], asking: str, having: str, command: str
) -> None:
    """The reply is the same to the byte but for the name, and the other's book is untouched."""
    peer, theirs, request = peers[asking], make_book(peers[having]), REQUESTS[command]
    before = theirs.content()
    ids = theirs.request_ids if "request_id" in request("", "") else theirs.request_ids[:1]
    for name, nobodys in theirs.names_beside:
        for id in ids:
            lines = []
            for asked, with_id in ((name, id), (nobodys, f"{id} of nobody")):
                book = names(peer)
                peer.send(request(asked, with_id))
                lines.append(_told(peer.line(), asked))
                for made in set(names(peer)) - set(book):
                    assert peer.ask(delete(made)) == DELETED, "so that the next finds none there"
            assert lines[0] == lines[1], name
    assert theirs.content() == before


def _told(line: bytes, name: str) -> bytes:
    """Return a reply without the name that was asked for, and without what was generated."""
    told = line.replace(json.dumps(name).encode(), b"NAME")
    if b'"return_generated_password"' in told:
        before, _, rest = told.partition(b'"password":"')
        return before + rest[8:]
    if b'"return_number_of_users"' in told:  # of all books, says the contract: saves are counted
        return told.rstrip(b"0123456789}\n")
    return told


def test_the_table_has_every_command_with_a_name(peers: dict[str, Peer]) -> None:
    """A command that names a user, or looks among users, cannot be added without being here."""
    asked = {request("name", "id")["message"] for request in REQUESTS.values()}
    every = {str(kind.__struct_config__.tag) for kind in messages.REQUESTS}
    assert every - asked == {"ping", "status", "authenticate"}


# --- The same names and ids in two books. ---


def test_the_same_names_and_ids_are_different_users(peers: dict[str, Peer]) -> None:
    """Each application has its own user, versions, labels and requests of the same name and id."""
    for who, peer in peers.items():
        requests = [
            save("shared name", f"first of {who}", labels=[who], request_id="shared id"),
            save("shared name", f"second of {who}"),
            {**GENERATE, "username": "shared generated", "request_id": "another shared id"},
        ]
        replies = ask_all(peer, requests)
        assert replies[:2] == [saved("shared name", 1), saved("shared name", 2)]
        assert replies[2]["version"] == 1
        assert ask_all(peer, requests[:1]) == replies[:1], "sent again, it is known"
        assert ask_all(peer, requests[2:]) == replies[2:]
    for who, peer in peers.items():
        assert names(peer, prefix="shared", label=who) == ["shared name"]
        assert password_of(peer, "shared name") == f"second of {who}"
        assert peer.ask(verify("shared name", f"second of {who}"))["valid"] is True
        others = [f"second of {other}" for other in peers if other != who]
        assert [peer.ask(verify("shared name", text))["valid"] for text in others] == [False] * 2
    one, other, common = peers.values()
    ask_all(one, [restore("shared name", 1), label("shared name"), delete("shared generated")])
    for peer, who in ((other, "other"), (common, "common")):
        assert versions_of(peer, "shared name") == [2, 1]
        assert names(peer, prefix="shared", label=who) == ["shared name"]
        assert names(peer, prefix="shared generated") == ["shared generated"]
    assert password_of(one, "shared name") == "first of one"
    assert one.ask(delete("shared name")) == DELETED
    assert password_of(other, "shared name") == "second of other"
    assert one.ask(save("shared name")) == saved("shared name", 1)


def test_the_same_id_with_another_request_is_no_mistake_of_two(peers: dict[str, Peer]) -> None:
    """What would be refused within one application is just another save of another."""
    for who, peer in peers.items():
        assert peer.ask(save(f"user of {who}", who, request_id="mixed")) == saved(
            f"user of {who}", 1
        )
    for peer in peers.values():
        assert peer.ask(save("somebody", request_id="mixed"))["message"] == "Not saved!"


# --- Who reads the common book. ---


def test_the_common_book_has_readers(shared_service: Service, peers: dict[str, Peer]) -> None:
    """What guests save, and its other applications, is read by whom the administrator says.

    No other application reads it.
    """
    second = shared_service.add_application("second reader", ["get", "list"], common=True)
    with (
        shared_service.peer() as guest,
        shared_service.owner() as owner,
        shared_service.peer() as reader,
    ):
        assert reader.authenticate(second)["may"] == ["get", "list"]
        before = set(generated_names(reader))
        assert guest.save("plain") == {"message": "Password saved!"}
        assert owner.ask(save("of another", "for the readers")) == saved("of another", 1)
        (generated,) = set(generated_names(reader)) - before
        for peer in (reader, peers["common"]):
            assert password_of(peer, "of another") == "for the readers"
            assert password_of(peer, generated) == "plain"
        assert ask_all(reader, [save("of another"), delete("of another")]) == [DENIED] * 2
        for name in ("one", "other"):
            assert peers[name].ask(get("of another")) == UNKNOWN_USER
            assert peers[name].ask(get(generated)) == UNKNOWN_USER
            assert "of another" not in names(peers[name])


# --- Listings beside many others. ---


def test_pages_are_not_cut_short_by_the_users_of_others(start: Start) -> None:
    """A page is as long as it may be, however many users of others are between its own."""
    service = start()
    token = service.add_application("few")
    with service.owner() as common, service.peer() as many, service.peer() as few:
        many.authenticate(service.add_application("many"))
        few.authenticate(token)
        mine: list[str] = []
        for number in range(20):
            for peer in (common, many):
                crowd = [save(f"{number:02} {n:03}") for n in range(60)]
                ask_all(peer, crowd + [save()] * (PAGE_ROWS_MAX // 10))
            mine.append(f"{number:02} mine")
            ask_all(few, [save(mine[-1], labels=["mine"]), save()])
        mine += generated_names(few)
        assert len(mine) == 40
        for query in ({}, {"label": "mine"}, {"prefix": "user-"}, {"prefix": "1"}):
            expected = [
                name
                for name in mine
                if name.startswith(query.get("prefix", ""))
                and ("label" not in query or name.endswith(query["label"]))
            ]
            (whole,) = pages(few, limit=1000, **query)
            assert [user["username"] for user in whole] == expected
            found = list(pages(few, limit=7, **query))
            assert [len(page) for page in found[:-1]] == [7] * (len(found) - 1)
            assert [user["username"] for page in found for user in page] == expected
