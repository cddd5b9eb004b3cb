"""A new program takes over from one that serves, and no client notices."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver import Client
from pwserver.server.take_over import meeting_path
from tests.conftest import Start
from tests.support.books_wire import ALIVE, PING
from tests.support.engines import BOTH_ENGINES
from tests.support.harness import PATIENCE_S, SAVED, Service, eventually, named, unix_peer
from tests.support.http import ask, samples, url_of_monitor
from tests.support.processes import launched, session
from tests.support.proxy import BALANCER, CLIENT, header_of, proxied_peer
from tests.support.shell import TREE_ENVIRONMENT, Shell
from tests.support.tls import Authority, tls_flags
from tests.trials.take_over import end, holder, take_over, try_it
from workers.audit.reading import Records

SAVE = {"message": "save_password", "password": "abc123"}


@pytest.fixture
def begin(start: Start) -> Iterator[Callable[..., Service]]:
    """Return a function that starts a service; its last successor is stopped at the end."""
    services: list[Service] = []

    def starter(*flags: str, **more: Any) -> Service:
        services.append(start(*flags, **more))
        return services[-1]

    yield starter
    for each in services:
        end(each)


@BOTH_ENGINES
def test_no_save_fails_or_is_lost_or_doubled(begin: Callable[..., Service]) -> None:
    """With each kind of client in the middle of its saves, a program takes over, and another."""
    load = try_it(begin(), 1500, 2, print)
    assert all(load.times_s.values())


def test_a_connection_stays_with_what_was_sent_meanwhile(begin: Callable[..., Service]) -> None:
    """A client without a token keeps its connection; half a message is no loss either."""
    service = begin("--unix", "book.sock")
    with (
        service.peer() as one,
        service.peer() as other,
        unix_peer(service.folder / "book.sock") as unix,
    ):
        assert [each.save() for each in (one, unix)] == [{"message": "Password saved!"}] * 2
        one.send(b'{"message": "pi')
        (service.folder / "pwserver.toml").write_text('unix_mode = "666"\n')
        take_over(service)
        one.send(b'ng"}')
        assert one.reply()["message"] in (ALIVE["message"], "Invalid message!")
        assert other.ask(PING) == ALIVE, "it had sent nothing before"
        assert unix.save() == {"message": "Password saved!"}
        assert unix.count() == 3
    assert service.process.wait(PATIENCE_S) == 0
    assert (service.folder / "book.sock").stat().st_mode & 0o777 == 0o666, "the new program has it"


@BOTH_ENGINES
def test_who_watches_finds_the_new_program(begin: Callable[..., Service]) -> None:
    """The monitor's addresses go on as well, and what it tells is of the new processes."""
    service = begin("--http", "127.0.0.1:0")
    url = url_of_monitor(service)
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        assert samples(ask(f"{url}metrics").text)["pwserver_users",] == 1
        take_over(service)
        assert ask(f"{url}readyz").status == 200
        assert peer.save() == {"message": "Password saved!"}
        assert samples(ask(f"{url}metrics").text)["pwserver_users",] == 2
    assert Shell(service.folder).run("health").code == 0


def test_encrypted_clients_come_again(begin: Callable[..., Service], authority: Authority) -> None:
    """A connection whose state cannot be handed over ends after its last reply."""
    service = begin(*tls_flags(authority.issue("localhost")))
    url = f"pwservers://{service.token}@localhost:{service.port}"
    with Client(url, ca_file=authority.path) as client:
        client.save_password("abc123", username="alice")
        take_over(service)
        client.save_password("abc124", username="alice")
        assert client.get_password("alice").version == 2


def test_who_comes_through_a_balancer_stays_itself(begin: Callable[..., Service]) -> None:
    """The new program knows the address that the header said, and asks for no other header."""
    service = begin("--proxy-protocol-networks", f"{BALANCER},{CLIENT}")
    with (
        proxied_peer(service, header_of()) as shown,
        proxied_peer(service, header_of("127.0.0.1")) as loopback,
        proxied_peer(service) as silent,
    ):
        assert [shown.ask(PING), loopback.ask(PING)] == [ALIVE, ALIVE]
        token = service.token
        take_over(service)
        assert loopback.save()["message"] == "Denied!", "it is no local one"
        assert shown.authenticate(token)["message"] == "Authenticated!"
        silent.send(header_of("198.51.100.1"), PING)
        assert silent.reply() == ALIVE
        assert silent.authenticate(token)["message"] == "Authenticated!"
    record = Records([service.folder / "user_data.audit"], action="authentication")
    assert [each.address for each in record] == [f"{CLIENT}:4711", "198.51.100.1:4711"]


def test_a_program_that_cannot_start_leaves_the_old_one(begin: Callable[..., Service]) -> None:
    """A mistake in the settings file is said, and the service goes on; then one can take over."""
    service = begin(workers=None)
    file = service.folder / "pwserver.toml"
    file.write_text("workers = 0\n")
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        os.kill(service.process.pid, signal.SIGUSR2)
        eventually(lambda: "this one goes on" in service.stderr, "it is said")
        assert "workers is 0" in service.stderr
        assert "with exit code 2 before it took over" in service.stderr
        assert peer.save() == {"message": "Password saved!"}
        file.write_text("workers = 3\n")
        new = take_over(service)
        assert peer.save() == {"message": "Password saved!"}
        assert peer.count() == 3
    children = {"fork server", "worker 1", "worker 2", "worker 3", "checker", "console"}
    eventually(lambda: children <= set(named(session(service.process.pid))), "all of them run")
    assert new == holder(service)


def test_a_new_program_that_fails_with_the_book_gives_it_back(
    begin: Callable[..., Service],
) -> None:
    """Until it serves, the old program has all it needs, and goes on with the same clients."""
    service = begin()
    record = service.folder / "user_data.audit"
    service.token  # noqa: B018 - writes the first record
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        record.chmod(0o666)  # which is only looked at when the book is opened
        os.kill(service.process.pid, signal.SIGUSR2)
        eventually(lambda: "this one goes on: the audit record" in service.stderr, "it is said")
        record.chmod(0o600)
        assert peer.save() == {"message": "Password saved!"}
        assert holder(service) == service.process.pid
        take_over(service)
        assert peer.count() == 2


def test_a_new_program_that_is_killed_leaves_the_old_one(begin: Callable[..., Service]) -> None:
    """Also while the old one's workers end: they are started again."""
    service = begin()
    worker = service.child("worker 2")
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        os.kill(worker, signal.SIGSTOP)  # so that not all of them can end
        os.kill(service.process.pid, signal.SIGUSR2)
        begins = re.compile(r"process (\d+) takes over")
        found = eventually(lambda: begins.search(service.stderr), "it begins")
        os.kill(int(found[1]), signal.SIGKILL)
        eventually(lambda: "this one goes on" in service.stderr, "it is noticed")
        os.kill(worker, signal.SIGCONT)
        assert peer.save() == {"message": "Password saved!"}
        assert peer.count() == 2


def test_serve_take_over_goes_on_for_a_running_service(begin: Callable[..., Service]) -> None:
    """A program that somebody starts, for example a newer one from elsewhere, does the same."""
    service = begin()
    with service.peer() as peer:
        peer.save()
        command = [sys.executable, "-m", "pwserver", "serve", "--port", "0", "--take-over"]
        with launched(
            command, cwd=service.folder, env=TREE_ENVIRONMENT, stdout=subprocess.PIPE
        ) as new:
            assert new.stdout is not None
            assert f"127.0.0.1:{service.port}" in new.stdout.readline().decode()
            assert service.process.wait(PATIENCE_S) == 0
            assert peer.save() == {"message": "Password saved!"}
            assert peer.count() == 2
            stopped = Shell(service.folder).run("stop")
            assert stopped.record == {"process": new.pid}
            assert new.wait(PATIENCE_S) == 0
    assert not meeting_path(service.database).exists()


def test_without_a_service_there_is_nothing_to_take_over(tmp_path: Path) -> None:
    """It is said in a sentence, and no file is made."""
    refused = Shell(tmp_path).run("serve", "--port", "0", "--take-over")
    assert (refused.code, refused.err) == (3, "pwserver: no pwserver runs on user_data.db.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_during_a_take_over_ends_both(begin: Callable[..., Service]) -> None:
    """Whoever has the book then: nothing is left running, and what was saved is there."""
    service = begin()
    with service.peer() as peer:
        assert peer.save() == {"message": "Password saved!"}
        os.kill(service.process.pid, signal.SIGUSR2)
        eventually(lambda: "takes over" in service.stderr, "it begins")
        os.kill(service.process.pid, signal.SIGTERM)
    service.process.wait(PATIENCE_S)
    eventually(lambda: not session(service.process.pid), "every process has ended")
    again = begin()
    with again.peer() as peer:
        peer.send(SAVE)
        assert peer.line() == SAVED
        assert peer.count() == 2


def test_a_strangers_socket_is_not_a_new_program(begin: Callable[..., Service]) -> None:
    """What a killed program has left is removed; the next one takes over all the same."""
    service = begin()
    path = meeting_path(service.database)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(path))
    take_over(service)
    assert not path.exists()
