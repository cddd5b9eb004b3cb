"""The audit record of a real service: what is in it, and that whatever is done to it is found."""

import fcntl
import getpass
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.books_wire import (
    COUNT,
    DENIED,
    PING,
    Request,
    ask_all,
    delete,
    get,
    history,
    label,
    listing,
    on_each_worker,
    peer_from,
    restore,
    save,
    verify,
)
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import Peer, Service, eventually
from tests.support.shell import Shell
from workers.audit.reading import Record, Records, record_files

CHECK = {"message": "check_password", "password": "abc123"}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in the folder of the service."""
    return Shell(tmp_path)


def records(service: Service, action: str | None = None) -> list[Record]:
    """Return what is in the record of a service, in all its files."""
    return list(Records(record_files(service.folder / "user_data.audit").paths, action=action))


def generate(**more: object) -> Request:
    """Return a request for a generated password."""
    return {"message": "generate_password", **more}


# --- What is recorded. ---

WHAT_IS_RECORDED: list[tuple[Request, tuple[str, str | None, str] | None]] = [
    (save("alice", "one"), None),
    (save("alice", "two"), None),
    (save(password="three"), None),
    (get("alice"), ("get", "alice", "ok")),
    (get("alice", version=1), ("get", "alice", "ok")),
    (get("alice", version=9), ("get", "alice", "Unknown version!")),
    (get("nobody"), ("get", "nobody", "Unknown user!")),
    (verify("alice", "two"), ("verify", "alice", "valid")),
    (verify("alice", "three"), ("verify", "alice", "wrong")),
    (verify("nobody", "two"), ("verify", "nobody", "wrong")),
    (restore("alice", 1), ("restore", "alice", "ok")),
    (restore("alice", 9), ("restore", "alice", "Unknown version!")),
    (generate(username="bob", request_id="r"), None),
    (generate(username="bob", request_id="r"), ("get", "bob", "ok")),
    (generate(), None),
    (history("alice"), None),
    (label("alice", "x"), None),
    (listing(), None),
    (COUNT, ("listing", None, "ok")),
    (PING, None),
    (CHECK, None),
    (delete("alice"), ("delete", "alice", "ok")),
    (delete("alice"), ("delete", "alice", "Unknown user!")),
]


def test_what_is_done_to_secrets_is_recorded(service: Service) -> None:
    """Who, from where, what, to whom, and what came of it, in order; and never a value."""
    token = service.add_application("shop")
    before = len(records(service))
    with service.peer() as peer:
        host, port = peer.socket.getsockname()
        peer.authenticate(token)
        generated = []
        for request, _ in WHAT_IS_RECORDED:
            generated.append(peer.ask(request).get("password", "none"))
    found = records(service)[before:]
    expected: list[tuple[str, str | None, str]] = [("authentication", None, "ok")]
    for _, recorded in WHAT_IS_RECORDED:
        if recorded is not None:
            action, name, outcome = recorded
            if action in ("restore", "delete") and outcome == "ok":
                expected.append((action, name, "begun"))
            expected.append(recorded)
    assert [(each.action, each.user, each.outcome) for each in found] == expected
    assert {(each.application, each.address) for each in found} == {("shop", f"{host}:{port}")}
    text = (service.folder / "user_data.audit").read_text()
    assert "alice" in text
    for value in ("one", "two", "three", "abc123", token, *generated[12:15]):
        assert f'"{value}"' not in text
        assert len(value) < 10 or value not in text


def test_who_is_denied_is_recorded_at_once(service: Service) -> None:
    """With the command, and the name that it was about."""
    with service.peer() as peer:
        host, port = peer.socket.getsockname()
        assert peer.ask(get("alice")) == DENIED
        (found,) = records(service)
    assert (found.action, found.outcome, found.application) == ("denied", "denied", None)
    assert (found.user, found.more["command"]) == ("alice", "get_password")
    assert found.address == f"{host}:{port}"


def test_a_flood_of_refusals_is_a_record_a_second(service: Service) -> None:
    """From several connections of one peer, by denials and wrong tokens: the numbers are exact."""
    wrong = {"message": "authenticate", "token": "pwserver_wrong"}
    began, denials = time.monotonic(), 0
    with service.peer() as one, service.peer() as other:
        for peer in (one, other):
            peer.ask(wrong)
        for _ in range(20):
            for peer in (one, other):
                ask_all(peer, [delete("alice"), listing()] * 50)
                denials += 100

        def recorded() -> bool:
            found = records(service, "denied")
            return sum(each.times for each in found) == denials

        eventually(recorded, "all denials are recorded")
        lasted_s = time.monotonic() - began
    found = records(service, "denied")
    assert len(found) <= 2 * (lasted_s + 2), "at most one a second of each worker, and the first"
    assert {each.address.rpartition(":")[0] or each.address for each in found} == {"127.0.0.1"}
    assert any("command" not in each.more for each in found)


def test_refusals_that_are_not_recorded_yet_are_recorded_at_a_stop(service: Service) -> None:
    """What is counted when the service is told to stop is in the record when it has ended."""
    with service.peer() as peer:
        ask_all(peer, [listing()])
        ask_all(peer, [listing()] * 77)
        assert service.stop() == 0
    assert sum(each.times for each in records(service, "denied")) == 78


def test_who_resets_its_connection_is_recorded_with_its_address(service: Service) -> None:
    """The listener knows it from the moment it accepts, whatever becomes of the connection."""
    shown = []
    for number in range(20):  # from as many addresses: of each there is a line a second
        with peer_from(service, f"127.0.9.{number + 1}") as peer:
            host, port = peer.socket.getsockname()
            shown.append(f"{host}:{port}")
            peer.send(delete("alice"))
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    found = eventually(lambda: len(records(service)) == 20 and records(service), "all are recorded")
    assert sorted(each.address for each in found) == sorted(shown)


def test_who_asks_for_a_listing_is_recorded_once_for_each(service: Service) -> None:
    """Whoever counts first before a listing, also without a token, and not who shares it."""
    with service.peer() as guest, service.owner() as owner:
        began = time.monotonic()
        ask_all(guest, [COUNT] * 500)
        ask_all(owner, [COUNT] * 500)
        seconds = time.monotonic() - began
        host, port = guest.socket.getsockname()
    found = records(service, "listing")
    assert (found[0].application, found[0].address) == (None, f"{host}:{port}")
    assert {each.application for each in found} <= {None, "owner"}
    assert len(found) <= 2 + seconds, "the console rests a second after each"


def test_wrong_tokens_are_recorded_without_them(service: Service) -> None:
    """Whoever shows one is nobody from then on, whoever it was before."""
    almost = service.token[:-1] + ("a" if service.token[-1] != "a" else "b")
    with service.owner() as peer:
        assert peer.authenticate(almost) == DENIED
        assert peer.ask(get("alice")) == DENIED
    found = [(each.application, each.action, each.outcome) for each in records(service)[-2:]]
    assert found == [("owner", "authentication", "denied"), (None, "denied", "denied")]
    assert almost not in (service.folder / "user_data.audit").read_text()


def test_a_unix_socket_tells_the_user(start: Start, tmp_path: Path) -> None:
    """There the address is the user at the other end, as the system knows it."""
    service = start("--unix", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(tmp_path / "socket"))
        with Peer.over(connected) as peer:
            peer.authenticate(service.token)
            peer.ask(get("nobody"))
            peer.authenticate("pwserver_wrong")
    found = records(service)[-3:]
    assert [each.action for each in found] == ["authentication", "get", "authentication"]
    assert {each.address for each in found} == {f"unix:{getpass.getuser()}"}


@BOTH_ENGINES
def test_what_an_administrator_does_is_recorded(service: Service, shell: Shell) -> None:
    """Applications and keys, the command and the user who ran it; what was refused is not there."""
    for arguments in (
        ["app", "add", "shop", "--may", "get"],
        ["app", "add", "shop", "--may", "get"],
        ["app", "rotate", "shop"],
        ["app", "revoke", "shop"],
        ["key", "add"],
        ["key", "retire", "1"],
        ["key", "rotate"],
        ["key", "retire", "1"],
    ):
        shell.run(*arguments)
    found = records(service)
    assert {each.address for each in found} == {f"command:{getpass.getuser()}"}
    assert {each.outcome for each in found} == {"ok"}
    assert [(each.action, each.application, each.more) for each in found] == [
        ("administration", "shop", {"command": "app add"}),
        ("administration", "shop", {"command": "app rotate"}),
        ("administration", "shop", {"command": "app revoke"}),
        ("key change", None, {"command": "key add", "key": 2}),
        ("key change", None, {"command": "key rotate", "key": 2}),
        ("key change", None, {"command": "key retire", "key": 1}),
    ]


def test_the_record_is_there_before_the_answer(service: Service) -> None:
    """Who has read an answer finds the record of it in the file, also in a burst, at any worker."""
    with service.owner() as owner, on_each_worker(service) as peers:
        ask_all(owner, [save(f"{number}") for number in range(100)])
        for peer in peers:
            peer.authenticate(service.token)
            peer.send(*[get(f"{number}") for number in range(100)])
            for number in range(100):
                assert peer.reply()["message"] == "return_password"
                assert f"{number}" in {each.user for each in records(service, "get")[-100:]}


# --- Under load. ---


@contextmanager
def reading(service: Service, clients: int = 3) -> Iterator[list[str]]:
    """Read passwords from several connections; yields the growing list of those that were got."""
    token, stop, got = service.token, threading.Event(), list[str]()
    with service.owner() as owner:
        ask_all(owner, [save(f"{number}") for number in range(50)])

    def read(first: int) -> None:
        number = first
        while not stop.is_set():
            with suppress(OSError, AssertionError, ValueError), service.peer() as peer:
                peer.authenticate(token)
                while not stop.is_set():
                    number += 1
                    if "password" in peer.ask(get(f"{number % 50}")):
                        got.append(f"{number % 50}")

    threads = [threading.Thread(target=read, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield got
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def more(got: list[str], number: int = 50) -> None:
    """Wait until some more were got."""
    before = len(got)
    eventually(lambda: len(got) >= before + number, "passwords are got")


def test_the_service_rotates_the_record_itself(start: Start, shell: Shell) -> None:
    """By its length, under load, and it keeps as many older files as it is told to."""
    service = start("--audit-bytes-max", "65536", "--audit-files-kept", "2")
    record = service.folder / "user_data.audit"
    with service.owner() as peer:
        ask_all(peer, [save("alice")])
        for _ in range(15):
            ask_all(peer, [get("alice")] * 100)
    files = record_files(record).paths
    assert len(files) == 3
    assert all(path.stat().st_size > 65536 for path in files[:-1])
    ran = shell.run("audit", "verify")
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"\d+ records, \d+ to \d+: all genuine\.\n", ran.out)
    files[0].unlink()
    ran = shell.run("audit", "verify")
    assert ran.code == 5
    assert "missing, which should be in an older file" in ran.err


def check_record(service: Service, shell: Shell, got: list[str]) -> None:
    """Fail unless the chain is whole and has everything that was answered."""
    ran = shell.run("audit", "verify")
    assert ran.code == 0, ran
    assert re.fullmatch(r"\d+ records, 1 to \d+: all genuine\.\n", ran.out)
    recorded = [each.user for each in records(service, "get") if each.outcome == "ok"]
    for name in set(got):
        assert recorded.count(name) >= got.count(name)


def move_away(record: Path) -> None:
    """Rotate as logrotate does: every older file one number up, the record becomes the first."""
    for number in range(9, 0, -1):
        with suppress(FileNotFoundError):
            record.with_name(f"{record.name}.{number}").rename(f"{record}.{number + 1}")
    record.rename(f"{record}.1")


def copy_and_empty(record: Path) -> None:
    """Rotate as logrotate does with copytruncate, while nobody writes: the head's lock is held."""
    with record.with_name("user_data.audit-head").open("rb") as head:
        fcntl.flock(head, fcntl.LOCK_EX)
        for number in range(9, 0, -1):
            with suppress(FileNotFoundError):
                record.with_name(f"{record.name}.{number}").rename(f"{record}.{number + 1}")
        shutil.copy(record, f"{record}.1")
        os.truncate(record, 0)


@pytest.mark.parametrize("rotate", [move_away, copy_and_empty])
def test_a_record_is_rotated_under_load(
    service: Service, shell: Shell, rotate: Callable[[Path], None]
) -> None:
    """Nobody need be told; over all files the chain is whole, and nothing answered is missing."""
    record = service.folder / "user_data.audit"
    with reading(service) as got:
        for _ in range(5):
            more(got)
            rotate(record)
        more(got)
    assert len(record_files(record).paths) == 6
    check_record(service, shell, got)


def test_what_was_written_between_copy_and_truncation_is_missed(
    service: Service, shell: Shell
) -> None:
    """Who rotates so without the lock loses records; the next verification says which."""
    record = service.folder / "user_data.audit"
    with service.owner() as peer:
        peer.ask(get("before"))
        shutil.copy(record, f"{record}.1")
        peer.ask(get("between"))
        os.truncate(record, 0)
        peer.ask(get("after"))
    assert [each.user for each in records(service, "get")] == ["before", "after"]
    ran = shell.run("audit", "verify")
    assert ran.code == 5
    assert f"{record.name}, line 1: record 4 is missing" in ran.err


@BOTH_ENGINES
def test_a_killed_worker_leaves_the_chain_whole(service: Service, shell: Shell) -> None:
    """Whatever it was at when it died: what it had answered is recorded, and all is genuine."""
    with reading(service, 4) as got:
        for name in ("worker 1", "worker 2", "worker 1", "worker 2"):
            more(got)
            service.replace(name)
        more(got)
    check_record(service, shell, got)


# --- What is done to the record. ---


def edit(lines: list[bytes]) -> list[bytes]:
    """Have a record say something else."""
    return [line.replace(b'"user":"2"', b'"user":"7"') for line in lines]


def leave_out(lines: list[bytes]) -> list[bytes]:
    """Take a record out of the middle."""
    return lines[:4] + lines[5:]


def reorder(lines: list[bytes]) -> list[bytes]:
    """Exchange two records."""
    return [*lines[:4], lines[5], lines[4], *lines[6:]]


def cut_end(lines: list[bytes]) -> list[bytes]:
    """Take the last records away."""
    return lines[:-2]


def cut_beginning(lines: list[bytes]) -> list[bytes]:
    """Take the first records away."""
    return lines[2:]


def repeat(lines: list[bytes]) -> list[bytes]:
    """Have a record stand there once more."""
    return [*lines, lines[3]]


@pytest.fixture(scope="module", params=[True, False], ids=["running", "stopped"])
def ten_records(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Return the audit record of a service that runs, or that has been stopped."""
    folder = tmp_path_factory.mktemp("recorded")
    with Service(folder) as service, service.wait_until_listening().owner() as peer:
        ask_all(peer, [get(f"{number}") for number in range(8)])
        if not request.param:
            service.stop()
        assert Shell(folder).run("audit", "verify").out == "10 records, 1 to 10: all genuine.\n"
        yield folder / "user_data.audit"


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (edit, "was edited"),
        (leave_out, "record 5 is missing"),
        (reorder, "record 5 is missing"),
        (cut_end, "the end was cut: the last record should be number 10"),
        (cut_beginning, "the beginning is cut"),
        (repeat, "record 4 is out of order, or a copy"),
    ],
)
def test_a_forged_record_is_found(
    ten_records: Path, forge: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    """Edited, cut, reordered: `audit verify` says in which line, and exits with 5."""
    genuine = ten_records.read_bytes()
    lines = genuine.splitlines(keepends=True)
    assert forge(lines) != lines
    ten_records.write_bytes(b"".join(forge(lines)))
    ran = Shell(ten_records.parent).run("audit", "verify")
    ten_records.write_bytes(genuine)
    assert (ran.code, ran.out) == (5, "")
    assert words in ran.err
    assert re.search(r"user_data\.audit, line \d+: ", ran.err)
    assert ran.err.endswith("pwserver: the audit record is not as it was written.\n")


def test_the_record_is_shown_by_user_application_and_time(service: Service, shell: Shell) -> None:
    """As JSON lines for programs, as a table for people; what matches all that is asked for."""
    token = service.add_application("shop")
    with service.owner() as peer, service.peer() as other:
        other.authenticate(token)
        for name in ("alice", "bob"):
            peer.ask(get(name))
            other.ask(get(name))
    everything = shell.run("audit", "show").records
    assert len(everything) == 8
    assert set(everything[0]) == {
        "n", "time", "application", "address", "action", "user", "outcome", "more"
    }  # fmt: skip
    mine = shell.run("audit", "show", "--user", "alice", "--application", "shop").record
    assert (mine["user"], mine["application"], mine["action"]) == ("alice", "shop", "get")
    assert len(shell.run("audit", "show", "--action", "authentication").records) == 2
    assert len(shell.run("audit", "show", "--since", everything[-1]["time"][:-1]).records) >= 1
    assert shell.run("audit", "show", "--since", "2100-01-01").out == ""
    table = shell.type("audit", "show", "--user", "bob").out
    assert table.split()[:2] == ["n", "time"]
    assert len(re.findall("bob", table)) == 2
