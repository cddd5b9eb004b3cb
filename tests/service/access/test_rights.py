"""Every command under every scope: what each may do, and that it says nothing else to the others.

The table below is written by hand, so that a mistake in the command table is not repeated here. A
command that is missing in it fails.
"""

import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pwserver.wire import framing
from pwserver.wire.messages import RIGHTS, Right
from tests.support.books_wire import (
    DENIED,
    UNKNOWN_TOKEN,
    Request,
    ask_all,
    delete,
    denied,
    generated_names,
    get,
    history,
    label,
    listing,
    pages,
    password_of,
    restore,
    save,
    saved,
    verify,
)
from tests.support.harness import Peer, Service, eventually, own_address
from tests.support.tls import Authority, tls_flags, tls_peer, trusting
from workers.serving import commands

GENERATE: Request = {"message": "generate_password"}

MAY = """
                      stranger wrong revoked guest  nothing save count get verify list delete  all
save                      -      -      -      x       -     x     -    -    -     -     -      x
save once                 -      -      -      x       -     x     -    -    -     -     -      x
save under a name         -      -      -      -       -     x     -    -    -     -     -      x
number_of_users           -      -      -      x       -     -     x    -    -     -     -      x
get_password              -      -      -      -       -     -     -    x    -     -     -      x
verify_password           -      -      -      -       -     -     -    -    x     -     -      x
password_history          -      -      -      -       -     -     -    -    -     x     -      x
restore_password          -      -      -      -       -     x     -    -    -     -     -      x
label_user                -      -      -      -       -     x     -    -    -     -     -      x
list_users                -      -      -      -       -     -     -    -    -     x     -      x
delete_user               -      -      -      -       -     -     -    -    -     -     x      x
generate                  -      -      -      x       x     x     x    x    x     x     x      x
generate under a name     -      -      -      -       -     x     -    -    -     -     -      x
check_password            -      -      -      x       x     x     x    x    x     x     x      x
ping                      x      x      x      x       x     x     x    x    x     x     x      x
status                    -      -      -      -       -     -     x    -    -     -     -      x
authenticate              x      x      x      x       x     x     x    x    x     x     x      x
"""
"""What each scope may do: without a token (`stranger`, `guest`), with one that is not good
(`wrong`, `revoked`), and as an application with no right, one right and all rights."""


@dataclass(frozen=True)
class Command:
    """How a command is asked for, of a name, and what is answered where it may be done."""

    request: Callable[[str], Request]
    answer: str
    of_unknown: str = ""  # where that is another answer

    def is_answered(self, known: Request, unknown: Request) -> bool:
        """Tell whether these are the replies for a name that is there and for one that is not."""
        words = self.answer, self.of_unknown or self.answer
        return (known["message"], unknown["message"]) == words and "error" not in known


UNKNOWN = "Unknown user!"
COMMANDS = {
    "save": Command(lambda _: save(), "Password saved!"),
    "save once": Command(lambda id: save(request_id=id), "Password saved!"),
    "save under a name": Command(lambda name: save(name, "other"), "Password saved!"),
    "number_of_users": Command(lambda _: {"message": "number_of_users"}, "return_number_of_users"),
    "get_password": Command(get, "return_password", UNKNOWN),
    "verify_password": Command(lambda name: verify(name, "abc123"), "return_verify_password"),
    "password_history": Command(history, "return_password_history", UNKNOWN),
    "restore_password": Command(lambda name: restore(name, 1), "Password restored!", UNKNOWN),
    "label_user": Command(lambda name: label(name, "x"), "User labelled!", UNKNOWN),
    "list_users": Command(lambda name: listing(prefix=name, limit=1), "return_users"),
    "delete_user": Command(delete, "User deleted!", UNKNOWN),
    "generate": Command(lambda _: GENERATE, "return_generated_password"),
    "generate under a name": Command(
        lambda name: {**GENERATE, "username": name}, "return_generated_password"
    ),
    "check_password": Command(
        lambda name: {"message": "check_password", "password": name}, "return_check_password"
    ),
    "ping": Command(lambda _: {"message": "ping"}, "Alive!"),
    "status": Command(lambda _: {"message": "status"}, "return_status"),
    "authenticate": Command(
        lambda name: {"message": "authenticate", "token": name}, "Authenticated!", "Denied!"
    ),
}

HEAD, *ROWS = MAY.strip().splitlines()
SCOPES = HEAD.split()
TABLE = {
    row[:22].strip(): dict(zip(SCOPES, [cell == "x" for cell in row[22:].split()], strict=True))
    for row in ROWS
}


# --- The scopes, on one service that strangers reach as well. ---


class House:
    """A service with TLS on every address, and what is needed to come to it in any scope."""

    def __init__(self, service: Service, context: ssl.SSLContext) -> None:
        self.service = service
        self._context = context

    def peer(self, host: str = "127.0.0.1") -> Peer:
        """Return a connection without a token; a stranger's, if not to a loopback address."""
        return tls_peer(self.service, self._context, host)

    def with_token(self, token: str) -> Peer:
        """Return a connection that has shown a token, whatever the answer was."""
        peer = self.peer()
        peer.authenticate(token)
        return peer

    def in_scope(self, scope: str) -> Peer:
        """Return a connection of the scope."""
        if scope in ("stranger", "guest"):
            return self.peer(own_address() if scope == "stranger" else "127.0.0.1")
        if scope == "wrong":
            return self.with_token(UNKNOWN_TOKEN)
        single: dict[str, list[Right]] = {"nothing": [], **{right: [right] for right in RIGHTS}}
        name = f"may {scope}"
        may = single.get(scope, RIGHTS)
        peer = self.with_token(self.service.add_application(name, may, common=True))
        if scope == "revoked":
            assert peer.ask(listing())["message"] == "return_users"
            with self.service.administration() as files:
                files.revoke(name)
            eventually(lambda: peer.ask(listing()) == DENIED, "it is lost", 1.0)
        return peer


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return the service of this file."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    flags = tls_flags(authority.issue("localhost"))
    with Service(tmp_path_factory.mktemp("rights"), "--host", "0.0.0.0", *flags) as service:
        yield House(service.wait_until_listening(), trusting(authority))
        assert service.stop() == 0


@pytest.fixture
def owner(house: House) -> Iterator[Peer]:
    """Yield a connection of who may see and do everything in the book that all here use."""
    with house.with_token(house.service.token) as peer:
        yield peer


# --- The table. ---


def test_every_command_is_in_the_table() -> None:
    """Each row of the command table has its row here, and each row here asks for that command."""
    assert list(TABLE) == list(COMMANDS)
    asked = [_row_of(command.request("a name")) for command in COMMANDS.values()]
    assert len(asked) == len(commands.TABLE)
    assert all(any(row is each for each in asked) for row in commands.TABLE)
    assert set(RIGHTS) < set(SCOPES)


def _row_of(request: Request) -> commands.Command:
    (decoded,) = framing.request_reader(65536).feed(json.dumps(request).encode() + b"\n")
    return commands.command_of(decoded)


@pytest.mark.parametrize("scope", SCOPES)
def test_each_command_in_each_scope(house: House, owner: Peer, scope: str) -> None:
    """It is answered where the table says so, and else it is `Denied!`, with nothing done.

    Asked of a user that is there and of one that is not, of chosen and of generated names, what is
    denied is denied with the same bytes.
    """
    owner.ask(save(password="generated"))
    generated = generated_names(owner)[-1]
    found: dict[str, Any] = {}
    with house.in_scope(scope) as peer:
        for name, command in COMMANDS.items():
            known, unknown = f"{scope}, {name}", f"nobody: {scope}, {name}"
            assert owner.ask(save(known)) == saved(known, 1)
            if name == "authenticate":  # the name of an application, so to speak
                known, unknown = house.service.token, UNKNOWN_TOKEN
            before = _whole_book(owner)
            peer.send(command.request(known), command.request(unknown))
            lines = [peer.line(), peer.line()]
            if lines[0] == lines[1] and json.loads(lines[0]) == DENIED:
                others = [generated, "user-0123456789abc", " not a name ", "\x1b"]
                requests = [{**command.request(other), "id": 7} for other in others]
                assert ask_all(peer, requests) == [denied(id=7)] * len(others)
                assert _whole_book(owner) == before
                found[name] = False
            else:
                replies = [json.loads(line) for line in lines]
                found[name] = command.is_answered(*replies) or replies
    assert found == {name: cells[scope] for name, cells in TABLE.items()}


def _whole_book(owner: Peer) -> list[Any]:
    users = [user for page in pages(owner, limit=1000) for user in page]
    return [owner.count(), users]


# --- What a guest is told. ---


def _under(name: str) -> list[Request]:
    """Return what a guest may not ask for, because it is about a name, or labels."""
    return [
        save(name, "theirs"),
        save(name, "theirs", request_id=f"first of {name}"),
        save(name, "theirs", if_version=0),
        save(labels=[name]),
        save(labels=[name], request_id=f"second of {name}"),
        save(if_version=0),
        {**GENERATE, "username": name},
        {**GENERATE, "username": name, "request_id": f"third of {name}"},
    ]


def test_a_guest_is_told_that_a_name_needs_a_token(house: House, owner: Peer) -> None:
    """Byte for byte the same, whatever the name is and whether it is there; and nothing is done."""
    owner.ask(save("there"))
    owner.ask(save(password="generated"))
    generated = generated_names(owner)[-1]
    before = _whole_book(owner)
    lines: set[bytes] = set()
    with house.peer() as guest:
        for name in ("there", "never", generated, "user-0123456789abc", " not a name "):
            for request in _under(name):
                guest.send(request)
                lines.add(guest.line())
    reason = 'This needs the token of an application that may "save".'
    assert [json.loads(line) for line in lines] == [{"message": "Denied!", "error": reason}]
    assert _whole_book(owner) == before
    assert password_of(owner, generated) == "generated"


def test_a_guest_saves_once_however_often_it_sends(house: House, owner: Peer) -> None:
    """Without a name a guest may use a `request_id`; another password is not saved with it."""
    users = owner.count()
    request = save(password="once", request_id="a guest's")
    with house.peer() as guest, house.peer() as again:
        for peer in (guest, again, guest):
            assert peer.ask(request) == {"message": "Password saved!"}
        assert guest.ask({**request, "password": "twice"})["message"] == "Not saved!"
        assert guest.count() == users + 1


def test_denied_requests_keep_their_place(house: House, owner: Peer) -> None:
    """In a burst of a guest, what is denied and what is done are answered in their order."""
    owner.ask(save("in a burst"))
    burst = [save(), get("in a burst"), {"message": "ping"}, get("nobody"), save("in a burst")]
    words = ["Password saved!", "Denied!", "Alive!", "Denied!", "Denied!"]
    with house.peer() as guest:
        numbered = [{**request, "id": n} for n, request in enumerate(burst * 20)]
        replies = ask_all(guest, numbered)
    assert [reply["id"] for reply in replies] == list(range(100))
    assert [reply["message"] for reply in replies] == words * 20
