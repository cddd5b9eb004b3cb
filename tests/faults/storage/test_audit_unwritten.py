"""Where the audit record cannot be written: nothing that it must tell of is done; all else is.

No secret is given out, nothing is deleted or restored.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.faults.inject import mounted
from tests.support.books_wire import (
    COUNT,
    DELETED,
    DENIED,
    PING,
    UNKNOWN_USER,
    Request,
    ask_all,
    delete,
    get,
    history,
    label,
    listing,
    restore,
    save,
    verify,
)
from tests.support.harness import Peer, eventually
from tests.support.shell import Shell
from workers.audit.reading import Records

UNWRITTEN: Request = {
    "message": "Unavailable!",
    "error": "The audit record cannot be written, so no password is given out.",
}
NOT_DONE: Request = {
    "message": "Unavailable!",
    "error": "The audit record cannot be written, so this is not done.",
}
NOT_RESTORED = NOT_DONE | {"message": "Not saved!"}
GENERATE: Request = {"message": "generate_password", "username": "bob", "request_id": "r"}
"""The first makes a password; those after it would give it out again."""

Fault = Callable[[Path], AbstractContextManager[tuple[str, Callable[[], object]]]]
"""Gives the name of a record that cannot be written, and what puts that right."""


@contextmanager
def no_folder(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The folder is missing until it is made."""
    yield "log/record", (folder / "log").mkdir


@contextmanager
def no_file(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Something that is no file is at the path until it is taken away."""
    (folder / "record").mkdir()
    yield "record", (folder / "record").rmdir


@contextmanager
def no_room(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The disk is full until something on it is deleted."""
    disk, filler = folder / "disk", folder / "disk" / "filler"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        yield "disk/record", filler.unlink


@pytest.mark.parametrize(
    "fault",
    [no_folder, no_file, pytest.param(no_room, marks=pytest.mark.root("to mount a small disk"))],
)
def test_without_a_record_no_secret_is_given_out(
    start: Start, tmp_path: Path, fault: Fault
) -> None:
    """Reading, verifying, deleting and restoring wait; with room again they work."""
    with fault(tmp_path) as (path, repair):
        token = _application_recorded_elsewhere(tmp_path)
        service = start("--audit-file", path, "--workers", "1")
        with service.peer() as peer, service.peer() as guest:
            assert peer.authenticate(token)["message"] == "Authenticated!"
            _check_all_but_secrets(peer, guest)
            for request in (get("alice"), verify("alice", "two"), verify("alice", "no"), GENERATE):
                assert peer.ask({**request, "id": 7}) == {**UNWRITTEN, "id": 7}
            assert peer.ask(get("nobody")) == UNKNOWN_USER
            changes = [delete("carol"), restore("alice", 1), delete("carol"), delete("nobody")]
            assert ask_all(peer, [*changes, COUNT])[:-1] == [
                NOT_DONE,
                NOT_RESTORED,
                NOT_DONE,
                UNKNOWN_USER,
            ]
            assert [each["version"] for each in peer.ask(history("alice"))["versions"]] == [2, 1]
            repair()
            eventually(lambda: peer.ask(get("alice")).get("password") == "two", "it is written")
            assert peer.ask(verify("alice", "two"))["valid"] is True
            assert peer.ask(delete("carol")) == DELETED
            assert peer.ask(restore("alice", 1))["version"] == 3
        assert service.stderr.count("the audit record cannot be written") == 1
        assert "the audit record is written again" in service.stderr
        found = list(Records([tmp_path / path]))
        assert [each.user for each in found if each.action == "get"][-1] == "alice"
        recorded = [each for each in found if each.action in ("delete", "restore")]
        assert [(each.user, each.outcome) for each in recorded] == [
            ("carol", "begun"),
            ("carol", "ok"),
            ("alice", "begun"),
            ("alice", "ok"),
        ]
        lost = sum(int(each.more["lost"]) for each in found if each.action == "audit")
        assert lost >= 7  # an authentication, two gets, two verifications, a delete and a restore
        ran = Shell(tmp_path).run("audit", "verify", "--audit-file", path)
        assert ran.code == 5, ran
        said = " ".join(ran.err.split())
        assert (
            f"{lost} records could not be written; the {len(found)} others are all genuine." in said
        )
        assert service.stop() == 0


def _application_recorded_elsewhere(folder: Path) -> str:
    """Register an application where that can be recorded; return its token."""
    added = Shell(folder).run("app", "add", "all", "--may", "save,count,get,verify,list,delete")
    (folder / "user_data.audit").unlink()
    (folder / "user_data.audit-head").unlink()
    return added.out.strip()


def _check_all_but_secrets(peer: Peer, guest: Peer) -> None:
    """Have everything done that gives no secret out."""
    for name, password in (("alice", "one"), ("alice", "two"), ("carol", "x")):
        assert peer.ask(save(name, password))["message"] == "Password saved!"
    made = peer.ask(GENERATE)
    assert made["message"] == "return_generated_password"
    expected = {
        "User labelled!": label("alice", "x"),
        "return_users": listing(),
        "return_password_history": history("alice"),
        "return_number_of_users": COUNT,
        "return_check_password": {"message": "check_password", "password": "abc123"},
        "Alive!": PING,
    }
    assert [peer.ask(request)["message"] for request in expected.values()] == [*expected]
    assert guest.save()["message"] == "Password saved!"
    assert guest.ask(get("alice")) == DENIED
    assert guest.authenticate("pwserver_wrong") == DENIED


def test_a_device_that_is_always_full_stops_nobody(start: Start, tmp_path: Path) -> None:
    """A service begins, saves and stops with it; it only keeps its secrets."""
    token = _application_recorded_elsewhere(tmp_path)
    service = start("--audit-file", "/dev/full")
    with service.peer() as peer:
        peer.authenticate(token)
        assert peer.ask(save("alice"))["version"] == 1
        assert ask_all(peer, [get("alice"), PING, delete("alice"), get("alice")]) == [
            UNWRITTEN,
            {"message": "Alive!"},
            NOT_DONE,
            UNWRITTEN,
        ]
        assert peer.count() == 1
    assert service.stop() == 0
