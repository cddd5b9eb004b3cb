"""A key file that is sealed with a passphrase: disk and backup alone open nothing."""

import os
from pathlib import Path

import pytest

from pwserver.errors import ExitCode
from tests.conftest import Start
from tests.support.books_wire import password_of, save
from tests.support.harness import Service
from tests.support.shell import Shell
from tests.trials.take_over import end, take_over

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in the folder of the book."""
    return Shell(tmp_path)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """Return a file with the passphrase, which only its owner may read."""
    file = tmp_path / "passphrase"
    file.touch(0o600)
    file.write_text(f"{PASSPHRASE}\n")
    return file


def test_a_sealed_key_file_needs_its_passphrase(
    start: Start, shell: Shell, secret_file: Path
) -> None:
    """For every start and command that uses keys; a service that runs goes on."""
    service = start()
    with service.owner() as peer:
        peer.ask(save("alice", "before"))
        sealed = shell.run("key", "protect", stdin=PASSPHRASE)
        assert sealed.code == 0, sealed
        assert "is sealed with the passphrase" in sealed.err
        peer.ask(save("bob", "meanwhile"))
    assert service.stop() == 0

    for command in (["serve", "--port", "0"], ["check"], ["key", "list"], ["setup"]):
        refused = shell.run(*command)
        assert refused.code == ExitCode.STORE, command
        assert "is sealed with a passphrase, and nobody is there to type it" in refused.err
    secret_file.write_text("wrong")
    refused = shell.run("check", "--key-passphrase", str(secret_file))
    assert refused.code == ExitCode.STORE
    assert "the passphrase is not the right one" in refused.err

    secret_file.write_text(f"{PASSPHRASE}\n")
    knowing = Shell(shell.folder, {"PWSERVER_KEY_PASSPHRASE": str(secret_file)})
    assert "all in order" in knowing.run("check").out
    assert knowing.run("key", "add").code == 0
    service = start("--key-passphrase", str(secret_file))
    token = _new_token(knowing)
    with service.peer() as peer:
        peer.authenticate(token)
        assert password_of(peer, "alice") == "before"
        assert password_of(peer, "bob") == "meanwhile"
    assert knowing.run("key", "rotate").code == 0  # the workers read the file again
    with service.peer() as peer:
        peer.authenticate(token)
        assert password_of(peer, "alice") == "before"
    assert service.stop() == 0

    assert knowing.run("key", "protect", "--remove").code == 0
    assert shell.run("check").code == 0


def _new_token(shell: Shell) -> str:
    """Return a new token of an application that may read the common book."""
    ran = shell.run("app", "add", "reader", "--may", "get", "--common")
    assert ran.code == 0, ran
    return ran.out.strip()


def test_the_passphrase_comes_through_a_descriptor(
    start: Start, shell: Shell, tmp_path: Path
) -> None:
    """That whoever starts the service has opened; a program that takes over gets it from there."""
    assert shell.run("setup").code == 0
    assert shell.run("key", "protect", stdin=PASSPHRASE).code == 0
    ours, its = os.pipe()
    os.write(its, PASSPHRASE.encode())
    os.close(its)
    with Service(tmp_path, "--key-passphrase", f"fd:{ours}", pass_fds=[ours]) as service:
        os.close(ours)
        with service.wait_until_listening().peer() as peer:
            assert peer.save()["message"] == "Password saved!"
            take_over(service)
            assert peer.save()["message"] == "Password saved!"
        end(service)


def test_the_passphrase_is_asked_for_on_a_terminal(shell: Shell) -> None:
    """Once for a command, and twice for a new one; it is not shown."""
    assert shell.run("setup").code == 0
    twice = f"{PASSPHRASE}\n{PASSPHRASE}\n"
    sealed = shell.type("key", "protect", typed=twice)
    assert sealed.code == 0, sealed
    opened = shell.type("key", "list", typed=f"{PASSPHRASE}\n")
    assert opened.code == 0, opened
    assert PASSPHRASE not in sealed.out + opened.out
    assert opened.out.count("Passphrase of ") == 1
    different = shell.type("key", "protect", typed=f"{PASSPHRASE}\none\ntwo\n")
    assert different.code == ExitCode.USAGE
    assert "two different passphrases; nothing was done" in different.out
