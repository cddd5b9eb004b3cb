"""Several applications at once, and many requests in flight."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.conftest import Start
from tests.support.books_wire import (
    ALIVE,
    COUNT,
    DELETED,
    PING,
    UNKNOWN_USER,
    Request,
    ask_all,
    at_once,
    delete,
    get,
    history,
    label,
    listing,
    names,
    on_each_worker,
    password_of,
    peers_at,
    restore,
    save,
    saved,
    verify,
    versions_of,
)
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import PATIENCE_S, Peer, Service, eventually

pytestmark = BOTH_ENGINES

# --- The same name at once. ---


@contextlib.contextmanager
def many_peers(service: Service, number: int) -> Iterator[list[Peer]]:
    """Give connections to both workers, half to each."""
    token, half = service.token, number // 2
    with peers_at(service, "worker 1", half) as some, peers_at(service, "worker 2", half) as others:
        peers = [peer for pair in zip(some, others, strict=True) for peer in pair]
        for peer in peers:
            assert peer.authenticate(token)["message"] == "Authenticated!"
        yield peers


def test_saves_of_one_name_at_once_make_as_many_versions(start: Start) -> None:
    """Sixteen applications save one name through both workers: none is lost, none made twice."""
    service = start("--save-timeout-s", "60")
    answers: list[tuple[int, str]] = []

    def use(peer: Peer, client: int) -> None:
        for burst in range(5):
            passwords = [f"{client}.{burst}.{n}" for n in range(5)]
            replies = ask_all(peer, [save("shared", password) for password in passwords])
            versions = [reply["version"] for reply in replies]
            assert versions == sorted(versions), "a client's own saves keep their order"
            answers.extend(zip(versions, passwords, strict=True))

    with many_peers(service, 16) as peers:
        at_once([partial(use, peer, n) for n, peer in enumerate(peers)])
        by_version = dict(answers)
        assert sorted(version for version, _ in answers) == list(range(1, 401))
        for peer in peers[:2]:
            assert peer.count() == 1
            assert versions_of(peer, "shared") == list(range(400, 389, -1))
            assert password_of(peer, "shared") == by_version[400]
            for version in range(390, 401):
                assert password_of(peer, "shared", version=version) == by_version[version]


def test_what_was_answered_last_is_what_is_got(service: Service) -> None:
    """Whoever has been answered is seen by everybody, through the other worker as well."""
    with on_each_worker(service) as (one, two):
        for n in range(100):
            assert one.ask(save("a", f"one {n}")) == saved("a", 2 * n + 1)
            assert password_of(two, "a") == f"one {n}"
            assert two.ask(save("a", f"two {n}")) == saved("a", 2 * n + 2)
            assert one.ask(verify("a", f"two {n}"))["valid"] is True
        assert one.ask(delete("a")) == DELETED
        assert ask_all(two, [get("a"), COUNT, listing()]) == [
            UNKNOWN_USER,
            {"message": "return_number_of_users", "number_of_users": 0},
            {"message": "return_users", "users": [], "after": None},
        ]


def test_a_reader_never_sees_a_version_go_back(service: Service) -> None:
    """While others save, what one client reads only grows; password and version belong together."""
    stop = threading.Event()

    def write(peer: Peer, client: int) -> None:
        for n in itertools.count():
            if stop.is_set():
                return
            (reply,) = ask_all(peer, [save("a", f"{client} {n}")])
            acknowledged[reply["version"]] = f"{client} {n}"

    def read(peer: Peer) -> None:
        versions: list[int] = [0]
        deadline = time.monotonic() + PATIENCE_S
        while len(set(versions)) < 50 and time.monotonic() < deadline:
            at_least = max([*acknowledged, versions[-1]])
            reply = peer.ask(get("a"))
            assert reply["version"] >= at_least
            versions.append(reply["version"])
            seen.append((reply["version"], reply["password"]))
        assert len(set(versions)) == 50

    def read_twice(one: Peer, two: Peer) -> None:
        try:
            at_once([lambda: read(one), lambda: read(two)])
        finally:
            stop.set()

    acknowledged: dict[int, str] = {1: "first"}
    seen: list[tuple[int, str]] = []
    with many_peers(service, 4) as (one, two, three, four):
        assert one.ask(save("a", "first")) == saved("a", 1)
        at_once([lambda: write(one, 1), lambda: write(two, 2), lambda: read_twice(three, four)])
    assert all(acknowledged[version] == password for version, password in seen)


def test_deletes_and_saves_of_one_name_at_once_leave_a_whole_user(service: Service) -> None:
    """However they fall, a user is there with versions from 1 on, or not at all; totals agree."""
    fates: list[str] = []

    def use(peer: Peer, client: int) -> None:
        for n in range(40):
            request = delete("a") if (client + n) % 4 == 0 else save("a", f"{client}.{n}")
            fates.append(peer.ask(request)["message"])
            found = peer.ask(history("a"))
            if found != UNKNOWN_USER:
                versions = [entry["version"] for entry in found["versions"]]
                assert versions == list(range(versions[0], max(versions[0] - 11, 0), -1))

    with many_peers(service, 8) as peers:
        at_once([partial(use, peer, n) for n, peer in enumerate(peers)])
        assert set(fates) == {"Password saved!", "User deleted!", "Unknown user!"}
        assert peers[0].count() == len(names(peers[0])) <= 1
        peers[0].ask(save("a"))
        assert peers[1].ask(delete("a")) == DELETED
        assert peers[0].count() == 0


def test_labels_and_saves_of_one_name_do_not_undo_each_other(service: Service) -> None:
    """A save without labels keeps those that another application sets at the same moment."""
    with many_peers(service, 4) as peers:
        peers[0].ask(save("a"))
        for n in range(20):
            at_once(
                [
                    lambda: ask_all(peers[0], [save("a")] * 3),
                    lambda: ask_all(peers[1], [save("a")] * 3),
                    partial(peers[2].ask, label("a", f"label {n}")),
                ]
            )
            assert names(peers[3], label=f"label {n}") == ["a"]
        assert versions_of(peers[3], "a")[0] == 121


# --- Requests in flight see each other in order. ---


def test_a_pipeline_is_done_in_its_order(owner: Peer) -> None:
    """Save, get, delete and save of one name in one burst: each sees exactly those before it."""
    steps = [
        (save("a", "one"), saved("a", 1)),
        (get("a"), "one"),
        (save("a", "two"), saved("a", 2)),
        (save("a", "three"), saved("a", 3)),
        (verify("a", "three"), {"message": "return_verify_password", "valid": True}),
        (restore("a", 1), {"message": "Password restored!", "username": "a", "version": 4}),
        (get("a"), "one"),
        (get("a", version=2), "two"),
        (COUNT, {"message": "return_number_of_users", "number_of_users": 1}),
        (label("a", "x"), {"message": "User labelled!", "username": "a", "labels": ["x"]}),
        (delete("a"), DELETED),
        (get("a"), UNKNOWN_USER),
        (delete("a"), UNKNOWN_USER),
        (COUNT, {"message": "return_number_of_users", "number_of_users": 0}),
        (PING, ALIVE),
    ]
    replies = ask_all(owner, [request for request, _ in steps] * 30)
    for reply, (request, expected) in zip(replies, steps * 30, strict=True):
        if isinstance(expected, str):
            assert reply["password"] == expected, request
        else:
            assert reply == expected, request


def test_replies_of_many_names_keep_their_order(owner: Peer) -> None:
    """Saves with and without names, checks, reads and bad input: replies come as asked."""
    kinds: list[Callable[[int], Request]] = [
        lambda n: save(f"n{n % 5}"),
        lambda _: save(),
        lambda n: get(f"n{n % 5}"),
        lambda _: {"message": "generate_password"},
        lambda _: {"message": "check_password", "password": "abc123"},
        lambda n: delete(f"n{n % 5}"),
        lambda _: {"message": "get_password"},
        lambda n: save(f"n{n % 3}", request_id=f"r{n % 7}"),
        lambda _: {"message": "list_users", "limit": 2},
        lambda _: COUNT,
    ]
    burst = [{**kinds[n * n % len(kinds)](n), "id": n} for n in range(600)]
    burst += [{**kinds[n % len(kinds)](n), "id": n} for n in range(600, 900)]
    assert [reply["id"] for reply in ask_all(owner, burst)] == list(range(900))


def test_saves_of_a_client_that_leaves_at_once_are_done(service: Service) -> None:
    """Sent and closed without reading a reply: named saves are done like the basic contract's."""
    for n in range(5):
        with service.owner() as leaving:
            leaving.send(*[save("a", f"{n}.{m}") for m in range(10)])
            leaving.no_more_to_send()
            assert [leaving.reply()["version"] for _ in range(10)][-1] == 10 * n + 10
            assert leaving.ended()
    with service.owner() as peer:
        with service.owner() as rude:
            rude.send(*[save("a", f"rude {m}") for m in range(10)])
        eventually(lambda: versions_of(peer, "a")[0] == 60, "all ten are saved")
        assert password_of(peer, "a") == "rude 9"
