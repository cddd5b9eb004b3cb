"""What all tests share: a way to start services that are stopped, and looked at, afterwards."""

import contextlib
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pwserver.client import retry
from pwserver.client.access import BaseClient
from tests.support import harness, needs
from tests.support.harness import PATIENCE_S, Peer, Service
from tests.support.processes import keeper
from tests.support.tls import Authority, Issued, server_tls

os.umask(0o022)  # a file that a group may write to is refused, and tests make many
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

# A machine that others slow down may stand still for seconds: that alone fails no test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
vars(BaseClient)["__init__"].__kwdefaults__["timeout_s"] = 5 * PATIENCE_S

Start = Callable[..., Service]

_STARTERS = {"Service", "Shell", "Start", "WatchedService", "premises", "start_null"}


_began = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what bounds the time of a run on a machine whose speed is not known."""
    parser.addoption(
        "--minutes", type=int, metavar="N", help="skip each test that has not begun after N minutes"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what starts the service or a command: its file has one of the things that do."""
    if isinstance(item, pytest.Function) and (
        _STARTERS & vars(item.module).keys() or {"start", "shared_service"} & {*item.fixturenames}
    ):
        item.add_marker("service")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this user cannot do, and what there is no time left for."""
    minutes: int | None = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - _began > 60 * minutes:
        pytest.skip(f"not begun within {minutes} minutes")
    needs.begin(item)


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_tests() -> Iterator[None]:
    """Kill whatever tests have left running, and fail if there is something."""
    yield
    left = keeper().left
    keeper().end()
    assert not left, f"tests have left the sessions {left} running"


@pytest.fixture
def service_class() -> type[Service]:
    """Return what `start` starts."""
    return Service


@pytest.fixture
def start(tmp_path: Path, service_class: type[Service]) -> Iterator[Start]:
    """Return a function that starts a service with some flags, once or several times in a test.

    Whatever a test does, at its end the service has ended as `Service.end` says.
    """
    with contextlib.ExitStack() as ends:

        def starter(*flags: str, port: int = 0, **popen: Any) -> Service:
            service = ends.enter_context(service_class(tmp_path, *flags, port=port, **popen))
            return service.wait_until_listening()

        yield starter


@pytest.fixture
def service(start: Start) -> Service:
    """Return a running service with the default settings."""
    return start()


@pytest.fixture
def peer(service: Service) -> Iterator[Peer]:
    """Return a guest's connection to the running service."""
    with service.peer() as connected:
        yield connected


@pytest.fixture
def owner(service: Service) -> Iterator[Peer]:
    """Return a connection of an application that may do everything in the common book."""
    with service.owner() as connected:
        yield connected


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return one service for all tests of a file that leave nothing behind in it."""
    with Service(tmp_path_factory.mktemp("shared")) as service:
        yield service.wait_until_listening()
        assert service.stop() == 0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return an authority for certificates, in a folder of its own."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    """Return the certificate of a good service."""
    return authority.issue("book")


@pytest.fixture(scope="module")
def tls(issued: Issued) -> ssl.SSLContext:
    """Return the TLS of a good service, for a fake one."""
    return server_tls(issued)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test wait for the pauses between attempts, nor find a token it was not given."""
    monkeypatch.setattr(retry, "PAUSE_S", 0.001)
    monkeypatch.delenv("PWSERVER_TOKEN_FILE", raising=False)


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody listens on."""
    return harness.free_port()
