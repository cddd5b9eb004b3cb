"""The same save sent again, with the same `request_id`, is answered alike and saves nothing."""

import itertools
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.support.books_wire import (
    ALIVE,
    DELETED,
    PING,
    UNKNOWN_USER,
    UNKNOWN_VERSION,
    Request,
    ask_all,
    at_once,
    delete,
    get,
    on_each_worker,
    pages,
    password_of,
    peers_at,
    restore,
    rows,
    save,
    saved,
    versions_of,
)
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import Peer, Service, eventually

_numbers = itertools.count()
KINDS: dict[str, Callable[[str], Request]] = {
    "named": lambda name: save(name, "two", labels=["x"]),
    "plain": lambda name: save(password="two"),
    "plain with labels": lambda name: save(password="two", labels=["x"]),
    "restore": lambda name: restore(name, 1),
    "generate": lambda name: {"message": "generate_password", "username": name, "labels": ["x"]},
}


def save_of(kind: str, peer: Peer) -> Request:
    """Return a save of a kind to a user of its own, with a `request_id` of its own."""
    number = next(_numbers)
    name = f"name {number}"
    assert peer.ask(save(name, "one")) == saved(name, 1)
    return {**KINDS[kind](name), "request_id": f"request {number} \N{SNOWMAN}"}


def whole_book(peer: Peer) -> list[Any]:
    """Return all that can be known of the book: equal, if nothing was saved in between."""
    users = [user for page in pages(peer) for user in page]
    return [peer.count(), users, ask_all(peer, [get(user["username"]) for user in users])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_save_sent_again_saves_nothing(shared_service: Service, kind: str) -> None:
    """On the same connection, on another, and through the other worker: one save, one answer."""
    with on_each_worker(shared_service) as (one, two), shared_service.owner() as another:
        request = save_of(kind, one)
        before = whole_book(one)
        first = one.ask(request)
        assert "error" not in first
        after = whole_book(one)
        assert after != before
        for peer in (one, another, two, one):
            assert peer.ask(request) == first
        assert two.ask({**request, "id": 5}) == {**first, "id": 5}
        assert whole_book(two) == after
        other = {**request, "request_id": request["request_id"] + "!"}
        assert one.ask(other)["message"] == first["message"]
        assert whole_book(one) != after, "another id is another save"


@pytest.mark.parametrize("kind", KINDS)
def test_a_save_sent_twice_in_one_burst_is_saved_once(shared_service: Service, kind: str) -> None:
    """Before the first is answered, the second is known for the same; in both workers at once."""
    with on_each_worker(shared_service) as (one, two):
        request = save_of(kind, one)
        total = one.count()
        new = kind.startswith("plain")
        answers: list[Any] = []
        at_once(
            [
                lambda: answers.extend(ask_all(one, [request] * 20)),
                lambda: answers.extend(ask_all(two, [PING, request] * 20)),
            ]
        )
        answers = [answer for answer in answers if answer != ALIVE]
        assert answers == answers[:1] * 40
        assert "error" not in answers[0]
        assert two.count() == total + new
        if not new:
            assert versions_of(two, request["username"]) == [2, 1]


@pytest.mark.parametrize("victim", ["worker", "writer", "everything", "stop"])
def test_a_save_is_known_after_a_crash(start: Start, victim: str) -> None:
    """After the death of the worker, of the one that writes, of all, or a stop, ids are known."""
    service = start()
    with peers_at(service, "worker 2") as (peer,):
        assert peer.authenticate(service.token)["message"] == "Authenticated!"
        requests = [save_of(kind, peer) for kind in KINDS]
        first = ask_all(peer, requests)
        after = whole_book(peer)
        assert not [reply for reply in first if "error" in reply]
        if victim == "worker":
            service.replace("worker 2")
            assert peer.ended()
        elif victim == "writer":
            service.replace("worker 1")
            assert ask_all(peer, requests) == first
        elif victim == "everything":
            service.kill_everything()
            service = start()
        else:
            assert service.stop() == 0
            service = start()
    with on_each_worker(service) as (one, two):
        for peer in (one, two, one):
            assert ask_all(peer, requests) == first
        assert whole_book(two) == after


@BOTH_ENGINES
def test_a_save_of_unknown_fate_may_be_sent_again(start: Start) -> None:
    """Answered "Unavailable!" because the writer died, each kind of save is done just once."""
    service = start()
    with peers_at(service, "worker 2", 2) as (peer, other):
        assert peer.authenticate(service.token)["message"] == "Authenticated!"
        requests = [save_of(kind, peer) for kind in KINDS]
        total = peer.count()
        for request in requests:
            writer = service.child("worker 1")
            os.kill(writer, signal.SIGSTOP)
            peer.send(request)
            assert other.ask(PING) == ALIVE, "the worker has passed on what came before"
            os.kill(writer, signal.SIGKILL)
            said = peer.reply()["message"]
            if not (service.url_of_database and said == "Password saved!"):  # planned too late
                assert said == "Unavailable!"
            eventually(lambda: "error" not in peer.ask(request), "the new writer saves")  # noqa: B023
        first = ask_all(peer, requests)
        assert ask_all(peer, requests) == first
        assert peer.count() == total + 2
        for request in requests:
            if "username" in request:
                assert versions_of(peer, request["username"]) == [2, 1]


def test_every_save_is_done_once_whatever_is_killed(start: Start) -> None:
    """Saving again until answered, under kills: as many versions as saves, and each is its own."""
    service = start()
    answered: list[tuple[int, str]] = []
    plain_saved: list[int] = []
    stop = threading.Event()

    def use(client: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            password = f"{client}.{number}"
            done = _until_saved(service, save("shared", password, request_id=f"n{password}"))
            answered.append((done["version"], password))
            _until_saved(service, save(password=password, request_id=f"p{password}"))
            plain_saved.append(1)

    def kill() -> None:
        for victim in ("worker 1", "worker 2") * 3:
            before = len(plain_saved)
            eventually(lambda: len(plain_saved) > before + 20, "saves go on")  # noqa: B023
            service.replace(victim)
        stop.set()

    try:
        at_once([kill, *[partial(use, client) for client in range(4)]])
    finally:
        stop.set()
    with service.owner() as peer:
        assert peer.count() == len(plain_saved) + 1
        versions = [version for version, _ in answered]
        assert sorted(versions) == list(range(1, len(answered) + 1))
        kept = versions_of(peer, "shared")
        assert kept == list(range(len(answered), len(answered) - 11, -1))
        for version in kept:
            assert (version, password_of(peer, "shared", version=version)) in answered


def _until_saved(service: Service, request: Request) -> Any:
    """Send a request again until it is answered, as the client library does."""

    def reply() -> Any:
        try:
            with service.owner() as peer:
                answer = peer.ask(request)
        except (OSError, AssertionError):
            return None
        return answer if answer["message"] == "Password saved!" else None

    return eventually(reply, "the save is answered")


@pytest.mark.parametrize("kind", KINDS)
def test_an_expired_id_saves_anew(start: Start, tmp_path: Path, kind: str) -> None:
    """After the time of the setting the same id is a new save, and is then known again."""
    with start("--requests-kept-s", "1").owner() as peer:
        request = save_of(kind, peer)
        peer.ask(request)
        before = whole_book(peer)

        def saved_anew() -> bool:
            peer.ask(request)
            return whole_book(peer) != before

        eventually(saved_anew, "the id is forgotten")
    assert len(rows(tmp_path / "user_data.db", "SELECT id FROM request")) == 1


def test_expired_ids_take_no_room(start: Start, tmp_path: Path) -> None:
    """They are removed while others are saved: the book does not grow with every id there was."""
    with start("--requests-kept-s", "1").owner() as peer:
        ask_all(peer, [save("a", request_id=f"old {n}") for n in range(300)])
        new = itertools.count()

        def only_new_ones_are_left() -> bool:
            peer.ask(save("a", request_id=f"new {next(new)}"))
            left = rows(tmp_path / "user_data.db", "SELECT id FROM request WHERE request_id < 'o'")
            every = rows(tmp_path / "user_data.db", "SELECT id FROM request")
            return len(every) == len(left)

        eventually(only_new_ones_are_left, "expired ids are removed")


# --- Another save under the same id. ---


def assert_not_saved(reply: Request) -> None:
    """Check that a reply says that nothing was saved, and why."""
    assert reply["message"] == "Not saved!", reply
    assert reply["error"].endswith(".")
    assert "request_id" in reply["error"]


def test_another_save_under_the_same_id_is_not_saved(shared_service: Service) -> None:
    """Another password or another name: the client has mixed up its ids, and is told so."""
    with on_each_worker(shared_service) as (one, two):
        request = save_of("named", one)
        plain = save_of("plain", one)
        assert ask_all(one, [request, plain])[0]["message"] == "Password saved!"
        before = whole_book(one)
        for peer in (one, two):
            assert_not_saved(peer.ask({**request, "password": "another"}))
            assert_not_saved(peer.ask({**request, "username": f"not {request['username']}"}))
            assert_not_saved(peer.ask({**plain, "password": "another"}))
            assert_not_saved(peer.ask({**plain, "username": request["username"]}))
            assert_not_saved(peer.ask({**request, "request_id": plain["request_id"]}))
            assert_not_saved(peer.ask({**plain, "request_id": request["request_id"]}))
        assert whole_book(two) == before


def test_another_save_in_the_same_burst_is_not_saved(shared_service: Service) -> None:
    """Two different saves with one id, in flight at once: one is saved, the other is told."""
    with shared_service.owner() as peer:
        number = next(_numbers)
        burst = [save(f"n{number}", f"p{n}", request_id=f"mixed {number}") for n in range(5)]
        first, *others = ask_all(peer, burst)
        assert first == saved(f"n{number}", 1)
        for reply in others:
            assert_not_saved(reply)
        number = next(_numbers)
        burst = [save(f"n{number} {n}", request_id=f"mixed {number}") for n in range(5)]
        replies = ask_all(peer, burst)
        assert [reply["message"] for reply in replies].count("Password saved!") == 1
        assert [reply["message"] for reply in replies].count("Not saved!") == 4


def test_a_save_is_known_after_what_it_saved_is_gone(shared_service: Service) -> None:
    """Replaced, pruned or deleted since: sent again, it is answered as the first time."""
    with shared_service.owner() as peer:
        request = save_of("named", peer)
        name, first = request["username"], peer.ask(request)
        ask_all(peer, [save(name, f"later {n}") for n in range(12)])
        assert peer.ask(request) == first
        assert peer.ask(delete(name)) == DELETED
        total = peer.count()
        assert peer.ask(request) == first
        assert peer.ask(get(name)) == UNKNOWN_USER
        assert peer.ask(save(name, "new")) == saved(name, 1)
        assert peer.ask(request) == first
        assert versions_of(peer, name) == [1]
        assert peer.count() == total + 1


@pytest.mark.parametrize("since", ["pruned", "deleted", "saved again"])
def test_another_save_never_says_saved_though_the_first_is_gone(
    shared_service: Service, since: str
) -> None:
    """Where what was saved first is not kept any more, another save is still not told "saved"."""
    with shared_service.owner() as peer:
        request = save_of("named", peer)
        name = request["username"]
        peer.ask(request)
        if since == "pruned":
            ask_all(peer, [save(name, f"later {n}") for n in range(12)])
        else:
            assert peer.ask(delete(name)) == DELETED
        if since == "saved again":
            assert peer.ask(save(name, "new")) == saved(name, 1)
        before = whole_book(peer)
        replies = ask_all(
            peer, [{**request, "username": f"not {name}"}, {**request, "password": "another"}]
        )
        assert whole_book(peer) == before
        for reply in replies:
            assert_not_saved(reply)


def test_what_was_not_saved_is_not_remembered(shared_service: Service) -> None:
    """A refused save leaves its id free."""
    with shared_service.owner() as peer:
        name, id = f"name {next(_numbers)}", f"request {next(_numbers)}"
        assert peer.ask(save(name, "one"))["version"] == 1
        assert peer.ask(restore(name, 5, request_id=id)) == UNKNOWN_VERSION
        assert peer.ask(save(f"{name} ", "two", request_id=id))["message"] == "Invalid message!"
        assert peer.ask(save(name, "two", request_id=id)) == saved(name, 2)


def test_a_restore_is_known_after_its_user_is_gone(shared_service: Service) -> None:
    """What it needs may be gone when it is sent again; it was done all the same."""
    with shared_service.owner() as peer:
        request = save_of("restore", peer)
        name = request["username"]
        first = peer.ask(request)
        ask_all(peer, [save(name, f"later {n}") for n in range(12)])
        assert peer.ask(request) == first, "its version is not kept any more"
        assert peer.ask(delete(name)) == DELETED
        assert peer.ask(request) == first
        assert peer.ask(get(name)) == UNKNOWN_USER


def test_a_generated_password_that_is_gone_is_not_made_up(shared_service: Service) -> None:
    """Sent again when what was generated is deleted, the answer is no other password."""
    with shared_service.owner() as peer:
        request = save_of("generate", peer)
        peer.ask(request)
        peer.ask(delete(request["username"]))
        reply = peer.ask(request)
        assert reply["message"] == "Not saved!"
        assert "not kept" in reply["error"]
        assert "password" not in reply
        assert peer.ask(get(request["username"])) == UNKNOWN_USER


def test_only_saves_look_at_ids(shared_service: Service) -> None:
    """A `request_id` with a command that saves nothing is an unknown field like any other."""
    with shared_service.owner() as peer:
        request = save_of("named", peer)
        name, id = request["username"], request["request_id"]
        peer.ask(request)
        assert peer.ask({**get(name), "request_id": id})["password"] == "two"
        assert peer.ask({**get(name), "request_id": 5})["password"] == "two"
