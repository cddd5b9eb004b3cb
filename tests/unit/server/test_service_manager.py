"""What the service manager is told, and the sockets that it gives."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pwserver.config import Settings
from pwserver.errors import ConfigError, ListenError
from pwserver.server import service_manager
from pwserver.server.service_manager import ServiceManager, given_sockets, microseconds
from pwserver.server.sockets import adopt


@pytest.fixture(params=["path", "abstract"])
def manager_at(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, str]]:
    """Return a service manager's socket, and its address as it is in the environment."""
    name = f"@pwserver-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1))
        listening.setblocking(False)
        yield listening, name


def test_it_is_told_what_changes(manager_at: tuple[socket.socket, str]) -> None:
    """Each message is one datagram, with a line for each assignment."""
    listening, name = manager_at
    with closing(ServiceManager({"NOTIFY_SOCKET": name})) as manager:
        manager.tell("READY=1", "STATUS=Listening.")
        assert listening.recv(100) == b"READY=1\nSTATUS=Listening."
        manager.tick(1.0, lambda: True)
        with pytest.raises(BlockingIOError):
            listening.recv(100)


def test_it_hears_of_a_service_that_works(manager_at: tuple[socket.socket, str]) -> None:
    """Twice in the time that it gives, and never while the service does not work."""
    listening, name = manager_at
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"}
    with closing(ServiceManager(environment)) as manager:
        for now, works in ((10.0, True), (10.9, True), (11.0, False), (11.5, True)):
            manager.tick(now, lambda: works)  # noqa: B023
    assert [listening.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
    with pytest.raises(BlockingIOError):
        listening.recv(100)


def test_another_processs_watchdog_is_not_ours(manager_at: tuple[socket.socket, str]) -> None:
    """The variables of a parent that was meant do not count."""
    listening, name = manager_at
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}
    with closing(ServiceManager(environment)) as manager:
        manager.tick(10.0, lambda: True)
    with pytest.raises(BlockingIOError):
        listening.recv(100)


def test_a_manager_that_does_not_read_is_not_waited_for(
    manager_at: tuple[socket.socket, str],
) -> None:
    """What it has no room for is sent later, in its order."""
    listening, name = manager_at
    with closing(ServiceManager({"NOTIFY_SOCKET": name})) as manager:
        sent = 0
        while not manager._waiting:
            manager.tell(f"STATUS={sent}")
            sent += 1
        for _ in range(sent - 1):
            assert listening.recv(100).startswith(b"STATUS=")
        manager.tick(1.0, lambda: True)
        assert listening.recv(100) == b"STATUS=%d" % (sent - 1)


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "x" * 200])
def test_no_manager_is_no_mistake(name: str) -> None:
    """Nothing is sent, and nothing fails."""
    with closing(ServiceManager({"NOTIFY_SOCKET": name})) as manager:
        manager.tell("READY=1")
        manager.tick(1.0, lambda: True)


def test_the_time_is_in_microseconds() -> None:
    """As sd_notify(3) wants it with RELOADING=1."""
    name, _, value = microseconds().partition("=")
    assert name == "MONOTONIC_USEC"
    assert abs(int(value) - time.monotonic() * 1e6) < 60e6


def given(
    descriptors: list[int], monkeypatch: pytest.MonkeyPatch, names: str = ""
) -> dict[str, str]:
    """Return the environment of a process that was given these descriptors, which follow."""
    monkeypatch.setattr(service_manager, "_FIRST_DESCRIPTOR", descriptors[0])
    numbers = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(descriptors))}
    return {**numbers, "LISTEN_FDNAMES": names, "OTHER": "stays"}


def test_given_sockets_are_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken with their names, once, and no child gets the variables."""
    opened = socket.create_server(("127.0.0.1", 0))
    port = opened.getsockname()[1]
    environment = given([opened.detach()], monkeypatch, "book")
    ((its, name),) = given_sockets(environment)
    with its:
        assert (name, environment) == ("book", {"OTHER": "stays"})
        assert not its.get_inheritable()
        (listening,) = adopt(Settings(), [(its, name)])
        assert listening.name == f"127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port)):
            listening.socket.accept()[0].close()
    assert given_sockets(environment) == []


def test_sockets_of_another_process_are_not_taken() -> None:
    """The variables stay in the environment of children that were not meant."""
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert given_sockets(environment) == []
    assert environment == {}


def test_what_cannot_be_listened_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that does not listen, and a descriptor that is none, are named."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        fd = os.dup(opened.fileno())
    with pytest.raises(ListenError, match="web of the service manager is no stream socket"):
        given_sockets(given([fd], monkeypatch, "web"))
    with pytest.raises(ListenError, match=f"descriptor {fd} .* cannot be used"):
        given_sockets(given([fd], monkeypatch))


def test_a_given_address_of_others_needs_tls() -> None:
    """The rule is the same, whoever opens the socket."""
    with (
        socket.create_server(("0.0.0.0", 0)) as opened,
        pytest.raises(ConfigError, match="other machines can reach"),
    ):
        adopt(Settings(), [(opened, "book")])
