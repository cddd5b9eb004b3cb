"""The service as a service manager sees it: notifications, the watchdog, and given sockets."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.harness import PATIENCE_S, Service, eventually, steady
from tests.support.shell import TREE_ENVIRONMENT
from tests.trials.take_over import end, take_over

GIVEN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="book")
os.execv(sys.executable, [sys.executable, "-m", "pwserver", *sys.argv[2:]])
"""
"""A program that is given a socket, as systemd gives it: it has the descriptor 3."""


class Manager:
    """A service manager's socket, and what has arrived there."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.heard: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def listen(self) -> list[str]:
        """Take what has arrived; return all lines so far."""
        while True:
            try:
                self.heard += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.heard

    def hears(self, beginning: str, times: int = 1) -> None:
        """Wait until lines that begin like this have come."""
        eventually(
            lambda: sum(line.startswith(beginning) for line in self.listen()) >= times, beginning
        )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Return a service manager."""
    made = Manager(tmp_path)
    with made.socket:
        yield made


def test_the_manager_hears_how_the_service_is(start: Start, manager: Manager) -> None:
    """It is ready when it listens, reloads, and stops; and it beats only while its writer does."""
    told = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "600000"}
    service = start("--list-users", "none", env=TREE_ENVIRONMENT | told)
    manager.hears("READY=1")
    assert f"STATUS=Listening on 127.0.0.1:{service.port}." in manager.heard
    manager.hears("WATCHDOG=1", 2)
    writer = service.child("worker 1")
    os.kill(writer, signal.SIGSTOP)
    _silence(manager)
    os.kill(writer, signal.SIGCONT)
    manager.hears("WATCHDOG=1", manager.heard.count("WATCHDOG=1") + 1)
    service.process.send_signal(signal.SIGHUP)
    manager.hears("RELOADING=1")
    manager.hears("MONOTONIC_USEC=")
    manager.hears("READY=1", 2)
    new = take_over(service)
    manager.hears(f"MAINPID={new}")
    end(service)
    manager.hears("STOPPING=1")


def _silence(manager: Manager) -> None:
    """Wait until no beat has come for longer than the manager waits for one."""

    def beats() -> int:
        return manager.listen().count("WATCHDOG=1")

    steady(beats, "beats", 1.5)


def test_a_given_socket_is_listened_on(tmp_path: Path) -> None:
    """The address in the settings does not count, and clients that already wait are served."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as early,
            Service(
                tmp_path,
                port=1,
                program=(sys.executable, "-c", GIVEN, str(given.fileno())),
                env=TREE_ENVIRONMENT,
                pass_fds=[given.fileno()],
            ) as service,
        ):
            early.sendall(b'{"message": "ping"}\n')
            assert service.wait_until_listening().port == port
            assert early.recv(100) == b'{"message": "Alive!"}\n'
            assert service.stop() == 0
