"""What is deleted is gone from the file, and what is secret is nowhere but sealed in it."""

import signal
import threading
from pathlib import Path

import pytest

from tests.books_wire import (
    DELETED,
    UNKNOWN_USER,
    Request,
    ask_all,
    delete,
    get,
    history,
    label,
    listing,
    names,
    password_of,
    restore,
    rows,
    save,
    verify,
    versions_of,
)
from tests.conftest import Start
from tests.harness import Service, eventually
from workers.history import unpack


def left_in(folder: Path, sealed: list[bytes]) -> list[bytes]:
    """Return those sealed passwords of which a part is found in a file of a folder.

    The first 24 bytes are the nonce, half of which others share; a part behind it is looked for,
    and the last one, which is all that an overwritten beginning leaves.
    """
    data = b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    return [each for each in sealed if each[24:40] in data or each[-16:] in data]


def sealed_of(database: Path, username: str) -> list[bytes]:
    """Return all versions of a user's password as they are sealed, the newest first."""
    query = "SELECT sealed, older FROM user WHERE username = ?"
    ((newest, older),) = rows(database, query, username)
    return [newest, *(version.sealed for version in reversed(unpack(older)))]


@pytest.mark.parametrize("length", [1, 100, 4096])
def test_a_deleted_password_is_gone_from_the_file(
    start: Start, tmp_path: Path, length: int
) -> None:
    """After a clean stop nothing of a deleted user is left, sealed or not; the others are there."""
    service = start()
    password = "\N{GRINNING FACE}" * length
    with service.peer() as peer:
        for user in ("before", "gone", "after"):
            ask_all(peer, [save(user, password, labels=["x"]) for _ in range(5)])
        gone = sealed_of(service.database, "gone")
        kept = sealed_of(service.database, "before") + sealed_of(service.database, "after")
        assert len(gone) == 5
        assert left_in(tmp_path, gone + kept) == gone + kept
        assert peer.ask(delete("gone")) == DELETED
    assert service.stop() == 0
    assert not (tmp_path / "user_data.db-wal").exists()
    assert left_in(tmp_path, gone + kept) == kept
    assert b"gone" not in service.database.read_bytes(), "nor is the name"
    with start().peer() as peer:
        assert peer.ask(get("gone")) == UNKNOWN_USER
        assert password_of(peer, "after", version=1) == password


def test_a_pruned_password_is_gone_from_the_file(start: Start, tmp_path: Path) -> None:
    """What the history has no room for is not in the file either."""
    service = start("--versions-kept", "2")
    seen: list[bytes] = []
    with service.peer() as peer:
        for n in range(12):
            peer.ask(save("a", f"password {n}" * n or "p"))
            seen.append(sealed_of(service.database, "a")[0])
    assert service.stop() == 0
    assert left_in(tmp_path, seen) == seen[-3:]


def test_passwords_of_the_seed_can_be_erased(start: Start, tmp_path: Path) -> None:
    """A user without a name of its own is deleted as thoroughly, after a kill as well."""
    service = start()
    with service.peer() as peer:
        ask_all(peer, [save(password=f"p{n}") for n in range(200)])
    service.kill_everything()
    service = start()
    with service.peer() as peer:
        all_names = names(peer)
        by_id = rows(service.database, "SELECT sealed FROM user ORDER BY id")
        gone = [bytes(sealed) for (sealed,) in by_id[::2]]
        kept = [bytes(sealed) for (sealed,) in by_id[1::2]]
        assert ask_all(peer, [delete(name) for name in all_names[::2]]) == [DELETED] * 100
    assert service.stop() == 0
    assert left_in(tmp_path, gone + kept) == kept


# --- A canary. ---

CANARY = "canary-7f3d-\N{SNOWMAN}"


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


def test_a_secret_is_nowhere_but_in_its_answer(start: Start, tmp_path: Path) -> None:
    """Saved, got, verified, checked and refused, while everything is killed once: no trace of it.

    Searched is all that the service wrote and what the system shows of its processes.
    """
    service = start()
    printed: list[bytes] = []
    assert service.process.stdout is not None
    console = threading.Thread(target=lambda out=service.process.stdout: printed.append(out.read()))
    console.start()
    secrets = [CANARY.encode(), b"canary-7f3d", CANARY.encode().hex().encode()]
    for name in ("", "checker", "worker 1", "worker 2", "writer", "console"):
        with service.peer() as peer:
            answers = ask_all(peer, everything_with(CANARY))
            assert answers[4]["password"] == CANARY
            assert all(CANARY not in str(reply) for reply in answers[6:])
            made = peer.ask({"message": "generate_password", "username": "made"})["password"]
            secrets.append(made.encode())
            if name:
                peer.send(*everything_with(CANARY))
                service.replace(name)
        assert not found_in_processes(service, secrets)
    with service.peer() as peer:
        assert versions_of(peer, "made") == [6, 5, 4, 3, 2, 1]
        assert not found_in_files(tmp_path, secrets)
    service.process.send_signal(signal.SIGTERM)
    console.join()
    assert service.ended() == 0
    assert b"bird" in printed[0], "the console was busy"
    assert not [secret for secret in secrets if secret in printed[0]]
    assert "checker died" in service.stderr
    assert not found_in_files(tmp_path, secrets)


def found_in_files(folder: Path, secrets: list[bytes]) -> list[Path]:
    """Return the files of a folder that hold a secret."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"stderr", "user_data.db", "user_data.key"} <= {file.name for file in files}
    return [file for file in files if any(secret in file.read_bytes() for secret in secrets)]


def found_in_processes(service: Service, secrets: list[bytes]) -> list[str]:
    """Return the processes that show a secret in their arguments or environment."""
    eventually(lambda: len(service.children()) == 5, "all children run")
    found = []
    for name, pid in {**service.children(), "listener": service.process.pid}.items():
        for shown in ("cmdline", "environ", "comm"):
            content = Path(f"/proc/{pid}/{shown}").read_bytes()
            found += [f"{name} {shown}" for secret in secrets if secret in content]
    return found
