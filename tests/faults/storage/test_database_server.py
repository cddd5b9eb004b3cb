"""The PostgreSQL server goes, comes back, is full, read-only, or not fit for a book."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver.config import StoreSettings
from pwserver.errors import StoreError
from tests.faults.canary import WatchedService
from tests.faults.conftest import Start
from tests.faults.inject import mounted
from tests.faults.tally import saving
from tests.support.engines import run_sql
from tests.support.harness import Peer, Service, eventually
from tests.support.postgres import Postgres
from tests.support.shell import Shell
from workers.admin.setup import prepare
from workers.storage.outage import DISK_FULL, READ_ONLY, SERVER_AWAY, SERVER_REFUSES

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.parametrize("engine", ["postgres"], indirect=True, scope="module"),
]

PATIENT = ("--save-timeout-s", "60")
"""Longer than a server is away here."""

HASTY = ("--save-timeout-s", "0.5")


@pytest.fixture
def running(postgres: Postgres) -> Iterator[Postgres]:
    """Return the server; it runs again after the test, whatever was done to it."""
    yield postgres
    with contextlib.suppress(subprocess.CalledProcessError):  # it may have been stopped
        postgres.stop("immediate")
    postgres.start()


def users(service: Service) -> int:
    """Return how many users there are; those that the writers have counted are as many."""
    select = 'SELECT (SELECT sum(users)::bigint FROM writer), (SELECT count(*) FROM "user")'
    ((counted, there),) = run_sql(service, select)
    assert counted == there
    return int(there)


def saves(peer: Peer) -> bool:
    """Tell whether a save is acknowledged."""
    return bool(peer.save()["message"] == "Password saved!")


def peer_of(service: WatchedService) -> Peer:
    """Wait until a service listens, and return a connection to it."""
    return service.wait_until_listening().peer()


# --- Saves while something goes wrong. ---


def kill(server: Postgres) -> None:
    """Kill the server and start it again."""
    server.stop("immediate")
    server.start()


def disconnect(server: Postgres) -> None:
    """End all connections, wherever their transactions are."""
    server.disconnect_all()


def cancel(server: Postgres) -> None:
    """Cancel what runs, some times."""
    for _ in range(20):
        server.sql(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize("fault", [kill, disconnect, cancel], ids=lambda fault: fault.__name__)
def test_what_was_acknowledged_is_there_once(
    running: Postgres, start: Start, fault: Callable[[Postgres], None]
) -> None:
    """Nothing is lost or doubled, and nothing is left undecided; the service goes on by itself."""
    service = start(*PATIENT)
    with saving(service, 8) as savers:
        for _ in range(3):
            before = savers.tally.saved
            eventually(lambda: savers.tally.saved > before + 50, "saves go on")  # noqa: B023
            fault(running)
        before = savers.tally.saved
        eventually(lambda: savers.tally.saved > before + 50, "saves go on")
    tally = savers.tally
    assert (tally.unknown, tally.refused) == (0, 0)
    eventually(lambda: users(service) == tally.saved, "as many as were acknowledged")
    with service.peer() as peer:
        eventually(lambda: peer.count() == tally.saved, "it counts them")


# --- The server is away. ---


def test_a_server_that_stays_away_is_a_certain_no(running: Postgres, start: Start) -> None:
    """Saves are certainly not done, reads are refused, and no process hangs; then all goes on."""
    service = start(*HASTY)
    children = service.all_children()
    with service.owner() as owner, service.peer() as peer:
        assert owner.ask(save("alice"))["version"] == 1
        running.stop("immediate")
        began = time.monotonic()
        refused = eventually(lambda: not saves(peer), "it is refused")
        assert refused
        reply = peer.save()
        assert reply == {"message": "Not saved!", "error": SERVER_AWAY}
        assert owner.ask(save("alice")) == {"message": "Not saved!", "error": SERVER_AWAY}
        reading = owner.ask({"message": "get_password", "username": "alice"})
        assert reading["message"] == "Unavailable!"
        eventually(lambda: status(owner).get("write_error") == SERVER_AWAY, "status says so")
        while time.monotonic() < began + 5:
            peer.save()
        assert peer.count() >= 1
        running.start()
        eventually(lambda: saves(peer), "it saves again")
        eventually(lambda: owner.ask(save("alice")).get("version", 0) > 1, "names too")
        assert service.all_children() == children, "nobody was replaced"
    assert "showed no sign of life" not in service.stderr


def save(name: str) -> dict[str, str]:
    """Return the request to save a user's password."""
    return {"message": "save_password", "username": name, "password": "x"}


def status(owner: Peer) -> dict[str, Any]:
    """Return the status."""
    found: dict[str, Any] = owner.ask({"message": "status"})
    return found


CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"message": "save_password", "password": "x"}, {"version": 2}),
    ({"message": "save_password", "password": "x", "request_id": "r"}, {"version": 3}),
    ({"message": "generate_password"}, {"version": 4}),
    ({"message": "restore_password", "version": 1}, {"version": 5}),
    ({"message": "label_user", "labels": ["a"]}, {"labels": ["a"]}),
    ({"message": "delete_user"}, {"message": "User deleted!"}),
    ({"message": "label_user", "labels": []}, {"message": "Unknown user!"}),
]
"""What changes a user, one after the other, and what is in the reply."""


def test_all_that_changes_a_user_waits_for_the_server(running: Postgres, start: Start) -> None:
    """As long as a plain save: what could not be planned is planned when the server is back."""
    service = start(*PATIENT)
    with service.owner() as owner:
        assert owner.ask(save("alice"))["version"] == 1
        running.stop("immediate")
        owner.send(*[request | {"username": "alice"} for request, _ in CHANGES], save("bob"))
        running.start()
        for request, expected in CHANGES:
            reply = owner.reply()
            assert reply | expected == reply, request
        assert owner.reply()["version"] == 1
    assert users(service) == 1


def test_a_stop_ends_although_the_server_is_away(running: Postgres, start: Start) -> None:
    """What waits is told that it is not done."""
    service = start(*HASTY)
    with service.peer() as peer:
        assert saves(peer)
        running.stop("immediate")
        peer.send({"message": "save_password", "password": "x"})
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 8
        assert peer.reply()["message"] in ("Not saved!", "Unavailable!")


def test_out_of_connections_is_like_away(running: Postgres, tmp_path: Path, engine: str) -> None:
    """Who finds no place waits for one, and goes on when there is one."""
    url = running.url_of_user("few")
    with WatchedService(tmp_path, *HASTY, url=url) as service, peer_of(service) as peer:
        assert saves(peer)
        running.sql("ALTER ROLE few CONNECTION LIMIT 0")
        running.disconnect_all()
        eventually(lambda: not saves(peer), "there is no connection")
        assert peer.save() == {"message": "Not saved!", "error": SERVER_AWAY}
        eventually(lambda: "too many connections" in service.stderr, "the log says why")
        running.sql("ALTER ROLE few CONNECTION LIMIT -1")
        eventually(lambda: saves(peer), "there is one")


# --- The server refuses. ---


def test_a_server_that_becomes_read_only_is_named(running: Postgres, start: Start) -> None:
    """As a primary does that is a standby now; reads go on."""
    service = start(*HASTY)
    name = service.url_of_database.rpartition("/")[2].partition("?")[0]
    with service.owner() as owner:
        assert owner.ask(save("alice"))["version"] == 1
        running.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        running.disconnect_all()
        eventually(lambda: owner.save().get("error") == READ_ONLY, "it says so")
        found = eventually(
            lambda: owner.ask({"message": "get_password", "username": "alice"}).get("password"),
            "it reads",
        )
        assert found == "x"
        running.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        running.disconnect_all()
        eventually(lambda: saves(owner), "it saves again")


def test_commits_that_become_weaker_are_refused(running: Postgres, start: Start) -> None:
    """Nothing is acknowledged that could be lost, whatever somebody has set since the start."""
    service = start(*HASTY)
    name = service.url_of_database.rpartition("/")[2].partition("?")[0]
    with service.peer() as peer:
        assert saves(peer)
        running.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
        running.disconnect_all()
        eventually(lambda: peer.save().get("error") == SERVER_REFUSES, "it says so")
        eventually(lambda: "weaker than on" in service.stderr, "the log says why")
        running.sql(f"ALTER DATABASE {name} RESET synchronous_commit")
        running.disconnect_all()
        eventually(lambda: saves(peer), "it saves again")


@pytest.mark.root("to mount a file system")
def test_a_full_disk_is_named(running: Postgres, start: Start) -> None:
    """What does not fit is certainly not saved; with more room all goes on."""
    disk = running.folder / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        running.owns(disk)
        service = start()
        running.sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
        try:
            fill_small_disk(service)
        finally:
            run_sql(service, 'ALTER TABLE "user" SET TABLESPACE pg_default')
            running.sql("DROP TABLESPACE small")


def fill_small_disk(service: Service) -> None:
    """Save on the small disk until it is full, and then on the other one."""
    run_sql(service, 'ALTER TABLE "user" SET TABLESPACE small')
    with service.peer() as peer:
        saved = 0
        while (reply := peer.save("x" * 4000))["message"] == "Password saved!":
            saved += 1
        assert reply == {"message": "Not saved!", "error": DISK_FULL}
        assert users(service) == saved
        run_sql(service, 'ALTER TABLE "user" SET TABLESPACE pg_default')
        eventually(lambda: saves(peer), "it saves again")


# --- What is refused at the start. ---


def other_program(server: Postgres, name: str) -> None:
    """Put a table of another program into a database."""
    server.sql("CREATE TABLE theirs (id int)", name)


def newer(server: Postgres, name: str) -> None:
    """Make a book of a newer version."""
    server.sql("CREATE TABLE pwserver (version int); INSERT INTO pwserver VALUES (99)", name)


def weak(server: Postgres, name: str) -> None:
    """Have commits acknowledged before they are durable."""
    server.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")


def read_only(server: Postgres, name: str) -> None:
    """Allow reading alone."""
    server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")


def nothing(server: Postgres, name: str) -> None:
    """Leave the database as it is."""


def strict(server: Postgres, name: str) -> str:
    """Return the URL of a user whose password is not the one in the file."""
    return server.url_of_user("strict", "right")


UNFIT: dict[str, tuple[Callable[[Postgres, str], str | None], str]] = {
    "another program": (other_program, "belongs to another program"),
    "a newer schema": (newer, "has schema version 99"),
    "a weak commit": (weak, "synchronous_commit=off"),
    "read-only": (read_only, "is read-only"),
    "no such database": (lambda server, _: server.url("nowhere"), '"nowhere" does not exist'),
    "no server": (lambda _, name: f"postgresql:///{name}?host=/nowhere", "cannot be used: conn"),
    "a wrong password": (strict, "password authentication failed"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_is_not_fit_is_refused_in_one_sentence(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, what: str
) -> None:
    """Nothing is made, not even a key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGPASSFILE", pass_file(tmp_path, "mistaken"))
    make, words = UNFIT[what]
    url = postgres.new_url()
    name = url.rpartition("/")[2].partition("?")[0]
    settings = StoreSettings(database=make(postgres, name) or url)
    with pytest.raises(StoreError, match=words) as refusal:
        prepare(settings, to_serve=True)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert "mistaken" not in sentence
    assert [each.name for each in tmp_path.iterdir()] == ["pgpass"]


def pass_file(folder: Path, password: str) -> str:
    """Write a file with one password for everybody; return its name."""
    file = folder / "pgpass"
    file.touch(0o600)
    file.write_text(f"*:*:*:*:{password}\n")
    return str(file)


def test_a_refusal_has_an_exit_code(postgres: Postgres, tmp_path: Path, engine: str) -> None:
    """That of a file which is refused; and it is one line."""
    name = postgres.new_database("SQL_ASCII").rpartition("dbname=")[2]
    ran = Shell(tmp_path).run("serve", "--port", "0", "--database", postgres.url(name))
    assert (ran.code, ran.out) == (5, "")
    assert "encoding SQL_ASCII" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_password_comes_from_a_file(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """That libpq reads: it is in no argument, in no setting and in no log."""
    url = postgres.url_of_user("guarded", "opensesame")
    monkeypatch.setenv("PGPASSFILE", pass_file(tmp_path, "opensesame"))
    folder = tmp_path / "service"
    folder.mkdir()
    with WatchedService(folder, url=url) as service, peer_of(service) as peer:
        service.secrets.append(b"opensesame")
        assert saves(peer)
        assert peer.count() == 1
