"""Requests and replies of the book's tests as plain data, and helpers to send them."""

import contextlib
import itertools
import os
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from pwserver.wire.messages import REQUESTS
from tests.support.harness import PATIENCE_S, Peer, Service, eventually

Request = dict[str, Any]

PING: Request = {"message": "ping"}
COUNT: Request = {"message": "number_of_users"}
ALIVE = {"message": "Alive!"}
UNKNOWN_USER = {"message": "Unknown user!"}
UNKNOWN_VERSION = {"message": "Unknown version!"}
DELETED = {"message": "User deleted!"}


class _Denied(dict[str, Any]):
    """Equals any `Denied!` with the same members, whose reason may be any sentence."""

    def __eq__(self, reply: object) -> bool:
        if not isinstance(reply, dict):
            return False
        reason = str(reply.get("error", ""))
        return reason.endswith(".") and {**self, "error": reason} == reply

    def __ne__(self, reply: object) -> bool:
        return not self == reply

    __hash__ = None


def denied(**more: Any) -> Request:
    """Return an object that equals a reply `Denied!` with these members and any reason."""
    return _Denied(message="Denied!", **more)


DENIED = denied()

_MOMENTS_S = (0.05, 0.1, 0.2, 0.4, *[0.8] * 20)
"""How long a worker may take to answer alone: the first times are enough for nearly all, and none
is so long that the service could take a stopped worker for one that hangs."""

_UNTIL_SUSPECTED_S = 1.6
"""After how long the listener gives no connections to a worker that is stopped."""

UNKNOWN_TOKEN = "pwserver_" + "A" * 43
"""A token in the right format that the service never made."""


def save(username: str | None = None, password: str = "abc123", **more: Any) -> Request:
    """Return a save; without a name, a save of the basic contract."""
    named = {} if username is None else {"username": username}
    return {"message": "save_password", "password": password, **named, **more}


def get(username: str, **more: Any) -> Request:
    """Return a request for a password."""
    return {"message": "get_password", "username": username, **more}


def verify(username: str, password: str) -> Request:
    """Return a request to compare a password with a user's newest."""
    return {"message": "verify_password", "username": username, "password": password}


def history(username: str) -> Request:
    """Return a request for the versions of a password."""
    return {"message": "password_history", "username": username}


def restore(username: str, version: int, **more: Any) -> Request:
    """Return a request to make an older version the newest."""
    return {"message": "restore_password", "username": username, "version": version, **more}


def label(username: str, *labels: str) -> Request:
    """Return a request to set the labels of a user."""
    return {"message": "label_user", "username": username, "labels": list(labels)}


def delete(username: str) -> Request:
    """Return a request to delete a user."""
    return {"message": "delete_user", "username": username}


def listing(**query: Any) -> Request:
    """Return a request for a page of users."""
    return {"message": "list_users", **query}


def saved(username: str, version: int) -> Request:
    """Return the reply to a save under a name."""
    return {"message": "Password saved!", "username": username, "version": version}


def ask_all(peer: Peer, requests: Sequence[object]) -> list[Any]:
    """Send requests in one burst; return their replies."""
    peer.send(*requests)
    return [peer.reply() for _ in requests]


def password_of(peer: Peer, username: str, **more: Any) -> str:
    """Return the password of a user that must exist."""
    reply = peer.ask(get(username, **more))
    assert reply["message"] == "return_password", reply
    return str(reply["password"])


def versions_of(peer: Peer, username: str) -> list[int]:
    """Return the versions that are kept of a user's password, in the order of the reply."""
    reply = peer.ask(history(username))
    assert reply["message"] == "return_password_history", reply
    return [entry["version"] for entry in reply["versions"]]


def pages(peer: Peer, **query: Any) -> Iterator[list[Request]]:
    """Yield the users of a listing, page by page, as a program that reads all of it does."""
    after: str | None = ""
    while after is not None:
        reply = peer.ask(listing(after=after, **query))
        assert reply["message"] == "return_users", reply
        yield reply["users"]
        after = reply["after"]


def names(peer: Peer, **query: Any) -> list[str]:
    """Return the names of all users of a listing."""
    return [user["username"] for page in pages(peer, **query) for user in page]


def generated_names(peer: Peer) -> list[str]:
    """Return the names that the service has generated."""
    return names(peer, prefix="user-")


EXAMPLES: dict[str, Request] = {
    str(request["message"]): request
    for request in (
        save("example", labels=["x"], if_version=0, request_id="an example"),
        COUNT,
        get("example", version=1),
        verify("example", "abc123"),
        history("example"),
        restore("example", 1, request_id="another example"),
        label("example", "x"),
        listing(after="a", limit=10, prefix="e", label="x"),
        delete("example"),
        {
            "message": "generate_password",
            "length": 20,
            "alphabet": "abc",
            "username": "example",
            "labels": ["x"],
            "if_version": 0,
            "request_id": "one more example",
        },
        {"message": "check_password", "password": "abc123"},
        PING,
        {"message": "status"},
        {"message": "authenticate", "token": UNKNOWN_TOKEN},
    )
}
"""Each command with all its fields. An application with all rights can do them in this order; only
the token is unknown."""

ALTERNATIVES = {"scram": "token"}
"""A field that is sent in place of another, so that no example has both."""


def required(command: str) -> list[str]:
    """Return the fields without which a command is not understood."""
    (kind,) = (each for each in REQUESTS if each.__struct_config__.tag == command)
    fields = [field.name for field in structs.fields(kind) if field.required]
    return fields + [each for each in ALTERNATIVES.values() if each in kind.__struct_fields__]


# --- Connections and their workers. ---


def peer_from(service: Service, address: str) -> Peer:
    """Return a guest's connection from another loopback address, as if from another machine."""
    there = ("127.0.0.1", service.port)
    return Peer.over(socket.create_connection(there, PATIENCE_S, source_address=(address, 0)))


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes (SIGSTOP) during a `with`."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            eventually(partial(_stands_still, pid), "it stands still")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def peers_at(service: Service, worker: str, number: int = 1) -> Iterator[list[Peer]]:
    """Yield new connections of guests to one worker.

    The others are stopped meanwhile, until the listener gives them no connections. What was given
    to them even so is not answered in time, and closed.
    """
    children = service.children()
    others = [pid for name, pid in children.items() if "worker " in name and name != worker]
    pauses_s = itertools.chain([0.0], itertools.repeat(_UNTIL_SUSPECTED_S))
    found: list[Peer] = []
    with contextlib.ExitStack() as stack:
        for pause_s, moment_s in zip(pauses_s, _MOMENTS_S, strict=False):
            with stopped(*others):
                time.sleep(pause_s)
                for peer in [service.peer() for _ in range(number - len(found))]:
                    peer.send(PING)
                    if select.select([peer.socket], [], [], moment_s)[0]:
                        assert peer.reply() == ALIVE
                        found.append(stack.enter_context(peer))
                    else:
                        peer.close()
            if len(found) == number:
                break
        else:
            raise AssertionError(f"{worker} is not given {number} connections")
        yield found


@contextlib.contextmanager
def on_each_worker(service: Service) -> Iterator[tuple[Peer, Peer]]:
    """Yield a connection to worker 1 and one to worker 2, both with all rights."""
    token = service.token
    with peers_at(service, "worker 1") as (one,), peers_at(service, "worker 2") as (two,):
        for peer in (one, two):
            assert peer.authenticate(token)["message"] == "Authenticated!"
        yield one, two


# --- Several clients at once, and the file. ---


def at_once(tasks: Iterable[Callable[[], object]]) -> None:
    """Run tasks in threads that begin together; raise the first exception of one of them."""
    todo = list(tasks)
    barrier = threading.Barrier(len(todo))
    failures: list[BaseException] = []

    def run(task: Callable[[], object]) -> None:
        barrier.wait()
        try:
            task()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(task,)) for task in todo]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def rows(database: Path, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query, read as another program reads the database."""
    uri = f"file:{database}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        return connection.execute(query, parameters).fetchall()
