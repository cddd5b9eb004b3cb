"""A canary password and a canary token: whatever happens, they are nowhere to be seen in the clear.

Here everything is said that can be, with the canary in every place; every other test of a fault
saves it as well. Searched is all that the service and its commands write and print, and what the
system shows of their processes; and it is made sure that their memory cannot be looked at.
"""

import ctypes
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.canary import CANARY, WORDS, WatchedService, forms
from tests.faults.conftest import Start
from tests.support.books_wire import (
    DENIED,
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
    versions_of,
)
from tests.support.harness import Service, eventually
from tests.support.processes import launched
from tests.support.shell import ENVIRONMENT, Shell, write_token

UNAVAILABLE = "Unavailable!"


def test_what_is_written_is_searched(start: Start) -> None:
    """Wherever a secret is, in whatever form, it is found: else these tests would be idle."""
    service = start()
    assert service.written() == service.shown() == []
    folder = service.folder / "deep"
    folder.mkdir()
    key = service.key_file.read_text().split()[-1]
    for secret in (CANARY, CANARY.encode().hex(), f"x{service.token}x", f"a {key} b"):
        (folder / "file").write_text(secret)
        assert service.written() == ["file"], secret
    (folder / "file").unlink()
    assert service.written() == []


# --- What is said to the service. ---


def everything_with(password: str) -> list[Request]:
    """Return every command with a secret, as it is meant and as it is not."""
    good = [
        save("bird", password, labels=["x"], request_id="r1"),
        save("bird", password, request_id="r1"),
        save("bird", f"{password}!", request_id="r1"),
        save(password=password),
        get("bird"),
        get("bird", version=1),
        verify("bird", password),
        verify("bird", f"not {password}"),
        verify("nobody", password),
        history("bird"),
        label("bird", "y"),
        listing(),
        restore("bird", 1),
        {"message": "check_password", "password": password},
        {"message": "check_password", "password": password * 100},
        {"message": "number_of_users"},
        {"message": "status"},
    ]
    bad: list[Request] = [
        save("bird", f"{password}\0"),
        save("bird", f"{password}\ud800"),
        save("bird", password * 400),
        save("bird\n", password),
        save("bird", password, labels=[""]),
        verify("", password),
        {"message": "save_password", "password": [password]},
        {"message": "check_password", "password": {password: password}},
        {"message": "no_such_command", "password": password},
        {"message": "generate_password", "alphabet": "a", "password": password},
    ]
    return good + bad


def test_a_password_is_nowhere_but_in_its_answer(start: Start) -> None:
    """Saved, got, verified, checked and refused, while everything is killed once: no trace."""
    service = start()
    killed = ("", "checker", "worker 1", "worker 2", "console")
    for name in killed:
        with service.owner() as peer:
            answers = ask_all(peer, everything_with(CANARY))
            assert answers[4]["password"] == CANARY
            assert all(CANARY not in str(reply) for reply in answers[6:])
            made = peer.ask({"message": "generate_password", "username": "made"})["password"]
            service.secrets += forms(made)
            if name:
                peer.send(*everything_with(CANARY))
                service.replace(name)
        assert not service.shown()
    with service.owner() as peer:
        assert versions_of(peer, "made") == [*range(len(killed), 0, -1)]
    assert "checker died" in service.stderr


def with_token_in_wrong_fields(token: str) -> list[Request]:
    """Return messages of a program that has mixed up its fields."""
    return [
        {"message": "authenticate", "token": [token]},
        {"message": "authenticate", "password": token},
        {"message": "authenticate", "token": token * 10},
        {"message": token},
        {"message": "ping", "token": token, token: token},
        save(token, "x"),
        save("bird", token),
        save("bird", "x", labels=[token]),
        save("bird", "x", request_id=token),
        save(f"my {token} here", "x"),
        get(token),
        get("bird", version=token),
        verify(token, "x"),
        verify("bird", token),
        restore(token, 1),
        restore("bird", 1, request_id=token),
        label(token, "x"),
        label("bird", token),
        history(token),
        delete(token),
        listing(after=token, prefix=token, label=token),
        {"message": "generate_password", "alphabet": token},
        {"message": "generate_password", "username": token, "request_id": token},
        {"message": "check_password", "password": token},
    ]


def almost(token: str) -> list[str]:
    """Return tokens that are wrong by a little, each of which says almost all of the right one."""
    last = "a" if token[-1] != "a" else "b"
    return [token[:-1] + last, token[:-1], token + "a", token.swapcase(), f" {token}", token[9:]]


def test_a_token_is_nowhere_at_all(start: Start) -> None:
    """Shown, shown wrong, sent in every wrong field by a guest, its owner and a stranger."""
    service = start()
    token = service.token
    service.secrets += [*forms(token, *almost(token)), token[9:40].encode()]
    for wrong in almost(token):
        with service.peer() as peer:
            assert peer.authenticate(wrong)["message"] in ("Denied!", "Invalid message!")
    for name in ("", "worker 1", "worker 2"):
        with service.peer() as guest, service.owner() as owner, service.peer() as stranger:
            assert stranger.authenticate("wrong") == DENIED
            for peer in (guest, owner, stranger):
                for answer in ask_all(peer, with_token_in_wrong_fields(token)):
                    assert token not in str({**answer, "after": None})
            guest.send(f'{{"message": "authenticate", "token": "{token}'.encode())
            guest.send(f"{token}\n{token}\n".encode())
            if name:
                owner.send(*with_token_in_wrong_fields(token))
                service.replace(name)


# --- Faults. ---


def tamper(service: Service) -> None:
    """Alter what is stored of all users, each in another column."""
    with closing(sqlite3.connect(service.database)) as database, database:
        for n, change in enumerate(
            ["sealed = x'00'", "key_id = 9", "version = 7", "labels = '[1]'", "sealed = NULL"]
        ):
            with suppress(sqlite3.IntegrityError):
                database.execute(f"UPDATE user SET {change} WHERE username = ?", (f"bird {n}",))


def lose_the_record(service: Service) -> None:
    """Have something that is no file stand where the audit record is."""
    service.folder.joinpath("user_data.audit").rename(service.folder / "before.audit")
    service.folder.joinpath("user_data.audit").mkdir()


def lose_the_key(service: Service) -> None:
    """Take the key file away, and have the workers started again without it."""
    service.key_file.rename(service.folder / "lost.key")
    for name in ("worker 1", "worker 2"):
        service.replace(name)


@pytest.mark.parametrize("fault", [tamper, lose_the_record, lose_the_key])
def test_no_fault_makes_it_show(start: Start, fault: Callable[[Service], None]) -> None:
    """Where reading fails for whatever reason, the log says so, and nothing of what was read."""
    service = start()
    names = [f"bird {number}" for number in range(6)]
    with service.owner() as peer:
        ask_all(peer, [save(name, CANARY, labels=["x"]) for name in names for _ in (1, 2)])
        fault(service)
    with service.owner() as peer:

        def refused() -> list[Any]:
            replies = ask_all(peer, [get(name) for name in names])
            return [reply for reply in replies if reply["message"] == UNAVAILABLE]

        if fault is not lose_the_key:  # where the record is looked for is not asked each time
            eventually(refused, "reading fails")
        for name in names:
            ask_all(peer, [verify(name, CANARY), save(name, CANARY), restore(name, 1)])
            ask_all(peer, everything_with(CANARY) + with_token_in_wrong_fields(service.token))
    if fault is lose_the_record:
        service.folder.joinpath("user_data.audit").rmdir()
        service.folder.joinpath("before.audit").rename(service.folder / "user_data.audit")


# --- The commands. ---


def test_no_command_shows_what_it_is_not_asked_for(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither where it works nor where it fails; the password is shown by `get` alone."""
    service = start()
    token, home = service.token, tmp_path_factory.mktemp("home")
    secrets = forms(*WORDS, token)
    shell = Shell(service.folder, {"PWSERVER_TOKEN_FILE": write_token(home, token)})
    at = f"pwserver://127.0.0.1:{service.port}"
    with_token = f"pwserver://{token}@127.0.0.1"
    runs = [
        (["save", "--username", "bird", "--url", at], 0),
        (["verify", "bird", "--url", at], 0),
        (["strength", "--url", at], 0),
        (["save", CANARY, "--url", at], 2),
        (["save", "--password", CANARY], 2),
        (["save", f"--password={CANARY}"], 2),
        (["get", "bird", CANARY], 2),
        (["count", "--url", f"{with_token}:{service.port}"], 0),
        (["count", "--url", f"{with_token}:1"], 3),
        (["count", "--url", f"{with_token}:port"], 2),
        (["count", "--url", f"pwserver://{token}:x@127.0.0.1"], 2),
        (["count", "--url", f"http://{token}@127.0.0.1"], 2),
        (["count", "--token-file", token], 2),
        (["count", "--token", token], 2),
        (["app", "revoke", token], 2),
        (["app", "add", token, "--may", "get"], 2),
        (["key", "retire", token], 2),
        (["audit", "show", "--user", "bird"], 0),
        (["serve", "--port", f"{service.port}"], 5),
    ]
    for arguments, code in runs:
        ran = shell.run(*arguments, stdin=f"{CANARY}\n")
        assert ran.code == code, ran
        shown = (ran.out + ran.err).encode()
        assert not [secret for secret in secrets if secret in shown], (arguments, ran)
    assert CANARY in shell.run("get", "bird", "--url", at).out
    (home / "token").write_text(f"{token[:-1]}\n")
    failed = shell.run("count", "--url", at)
    assert failed.code == 2
    assert token[9:-1] not in failed.err


def test_a_token_in_the_arguments_is_covered(start: Start) -> None:
    """Who has written it there all the same sees a warning, and others do not see it for long."""
    service = start()
    command = [sys.executable, "-m", "pwserver", "save", "--url", service.url]
    with launched(
        command,
        cwd=service.folder,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        shown = Path(f"/proc/{process.pid}/cmdline")
        eventually(lambda: service.token.encode() not in shown.read_bytes(), "it is covered")
        out, warning = process.communicate(b"abc123\n")
    assert (process.returncode, out) == (0, b"Password saved!\n")
    assert b"others could see the token in the arguments" in warning
    assert service.token.encode() not in warning


# --- Memory. ---

_PR_CAPBSET_DROP = 24
_CAPABILITIES = (19, 21, 38)  # to trace, to administrate, to measure: each of them lets one look
_LOOK = """
import sys
for pid in sys.argv[1:]:
    for name in ("environ", "maps", "mem", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                name == "mem" or file.read()
            print(pid, name)
        except PermissionError:
            pass
"""
"""Prints what of some processes may be opened."""


def _without_privilege() -> None:
    """Be a user like others, who may look at what else is theirs, in the program run next."""
    for capability in _CAPABILITIES:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def all_processes(service: WatchedService) -> list[int]:
    """Return the process ids of a service, once all of its children run."""
    service.all_children()
    return list(service.processes().values())


def open_to_others(*pids: int) -> dict[int, set[str]]:
    """Return what a program of the same user can open of some processes' memory."""
    command = [sys.executable, "-c", _LOOK, *map(str, pids)]
    shown = subprocess.check_output(command, text=True, preexec_fn=_without_privilege)
    found: dict[int, set[str]] = {}
    for line in shown.splitlines():
        pid, name = line.split()
        found.setdefault(int(pid), set()).add(name)
    return found


def test_nobody_looks_into_the_memory(start: Start) -> None:
    """Of no process of the service, also one that was started again, can the same user see it."""
    service = start(preexec_fn=_without_privilege)
    with launched(["sleep", "60"], preexec_fn=_without_privilege) as other:
        seen = open_to_others(other.pid)
        other.kill()
    assert {"environ", "maps", "auxv"} <= seen[other.pid], "it would be seen"
    assert open_to_others(*all_processes(service)) == {}
    for name in ("worker 1", "worker 2", "checker", "console"):
        service.replace(name)
    assert open_to_others(*all_processes(service)) == {}


def test_nobody_looks_into_a_command_that_has_the_keys(start: Start) -> None:
    """A rotation, which has them in its memory for longest, is closed as the service is."""
    service = start()
    with service.owner() as peer:
        ask_all(peer, [save(f"{number}") for number in range(500)])
    Shell(service.folder).run("key", "add")
    command = [sys.executable, "-m", "pwserver", "key", "rotate"]
    record = service.folder / "user_data.audit"
    with launched(
        command,
        cwd=service.folder,
        env=ENVIRONMENT,
        preexec_fn=_without_privilege,
    ) as process:
        try:
            eventually(lambda: "key rotate" in record.read_text(), "it has begun")
            process.send_signal(signal.SIGSTOP)
            assert process.poll() is None
            assert open_to_others(process.pid) == {}
            assert core_limit(process.pid) == ("0", "0")
        finally:
            process.kill()


def core_limit(pid: int) -> tuple[str, str]:
    """Return how large a core file of a process may be, in bytes."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"^Max core file size +(\S+) +(\S+)", limits, re.M)
    assert found
    return found[1], found[2]


def test_no_process_leaves_a_core_file(start: Start) -> None:
    """Not even one that is killed by what makes them, where they are allowed without limit."""
    service = start(preexec_fn=_allow_core_files)
    for pid in all_processes(service):
        assert core_limit(pid) == ("0", "0")
    with service.owner() as peer:
        ask_all(peer, everything_with(CANARY))
    before = {file.name for file in service.folder.iterdir()}
    for name in ("worker 1", "worker 2"):
        service.replace(name, signal.SIGSEGV)
    assert {file.name for file in service.folder.iterdir()} == before


def _allow_core_files() -> None:
    import resource  # noqa: PLC0415 - in the child alone

    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
