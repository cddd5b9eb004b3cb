"""What the tests of the book say to a service: requests as plain data, and who answers them."""

import contextlib
import itertools
import os
import select
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.harness import PATIENCE_S, Peer, Service, eventually

Request = dict[str, Any]

PING: Request = {"message": "ping"}
COUNT: Request = {"message": "number_of_users"}
ALIVE = {"message": "Alive!"}
UNKNOWN_USER = {"message": "Unknown user!"}
UNKNOWN_VERSION = {"message": "Unknown version!"}
DELETED = {"message": "User deleted!"}


class _Denied(dict[str, Any]):
    """What is equal to any `Denied!` whose reason is a sentence; with an `id`, to that of it."""

    def __eq__(self, reply: object) -> bool:
        if not isinstance(reply, dict):
            return False
        reason = str(reply.get("error", ""))
        return reason.endswith(".") and {**self, "error": reason} == reply

    def __ne__(self, reply: object) -> bool:
        return not self == reply

    __hash__ = None


def denied(**more: Any) -> Request:
    """Return what is equal to a reply `Denied!`, whatever the reason."""
    return _Denied(message="Denied!", **more)


DENIED = denied()

_MOMENTS_S = (0.05, 0.1, 0.2, 0.4, *[0.8] * 20)
"""How long a worker is given to answer alone: at first as long as nearly all need, and never so
long that one that stands still meanwhile could be taken for one that hangs."""

UNKNOWN_TOKEN = "pwserver_" + "A" * 43
"""A token as the service makes them, that it never made."""


def save(username: str | None = None, password: str = "abc123", **more: Any) -> Request:
    """Return a save; without a name it is the basic contract's."""
    named = {} if username is None else {"username": username}
    return {"message": "save_password", "password": password, **named, **more}


def get(username: str, **more: Any) -> Request:
    """Return a request for a password."""
    return {"message": "get_password", "username": username, **more}


def verify(username: str, password: str) -> Request:
    """Return the question whether a password is the newest of a user."""
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
    """Return the reply to a named save; a guest is not told the version."""
    return {"message": "Password saved!", "username": username, "version": version}


def ask_all(peer: Peer, requests: Sequence[object]) -> list[Any]:
    """Send requests in one burst; return their replies."""
    peer.send(*requests)
    return [peer.reply() for _ in requests]


def password_of(peer: Peer, username: str, **more: Any) -> str:
    """Return a password that must be there."""
    reply = peer.ask(get(username, **more))
    assert reply["message"] == "return_password", reply
    return str(reply["password"])


def versions_of(peer: Peer, username: str) -> list[int]:
    """Return the versions that are kept of a user's password, in the order of the reply."""
    reply = peer.ask(history(username))
    assert reply["message"] == "return_password_history", reply
    return [entry["version"] for entry in reply["versions"]]


def pages(peer: Peer, **query: Any) -> Iterator[list[Request]]:
    """Yield the users of a listing, a page at a time, as a program that reads it all does."""
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
    """Return the names that the service made."""
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
"""Each command with all its fields. They can be done one after the other, in this order, by who may
do everything; but nobody has the token."""


# --- Who serves a connection. ---


def peer_from(service: Service, address: str) -> Peer:
    """Return a guest's connection from some loopback address, as from a machine of its own."""
    there = ("127.0.0.1", service.port)
    return Peer.over(socket.create_connection(there, PATIENCE_S, source_address=(address, 0)))


def worker_of(service: Service, peer: Peer) -> str:
    """Return the name of the worker that has a connection, with all replies read.

    It is the one that answers while the others are stopped. Who does not answer within a moment is
    tried again later, for longer, so a busy machine makes this slower, and never wrong.
    """
    children = service.children()
    workers = [name for name in children if name.startswith("worker ")]
    for moment_s, name in itertools.product(_MOMENTS_S, workers):
        with stopped(*(children[other] for other in workers if other != name)):
            peer.send(PING)
            alone = bool(select.select([peer.socket], [], [], moment_s)[0])
        assert peer.reply() == ALIVE
        if alone:
            return name
    raise AssertionError("no worker has the connection")


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes stand still for a while."""
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
def on_each_worker(service: Service) -> Iterator[tuple[Peer, Peer]]:
    """Give a connection to worker 1 and one to worker 2, each of who may do everything."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Peer] = {}

        def both_are_there() -> bool:
            peer = stack.enter_context(service.owner())
            found.setdefault(worker_of(service, peer), peer)
            return len(found) == 2

        eventually(both_are_there, "both workers have a connection")
        yield found["worker 1"], found["worker 2"]


# --- Several applications, and the file. ---


def at_once(tasks: Iterable[Callable[[], object]]) -> None:
    """Run tasks in threads that begin together; raise what went wrong in one of them."""
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
    """Return what another program reads in the database; it changes nothing."""
    uri = f"file:{database}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        return connection.execute(query, parameters).fetchall()
