"""A real balancer in front of the service: HAProxy, nearly as in docs/operations.md."""

import csv
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pwserver import Client
from tests.conftest import Start
from tests.support import needs
from tests.support.books_wire import DENIED, save
from tests.support.harness import PATIENCE_S, Peer, Service, eventually, free_port
from tests.support.http import url_of_monitor
from tests.support.processes import launched
from tests.support.proxy import BALANCER
from workers.audit.reading import Records

ELSEWHERE = "127.0.0.77"
"""The loopback address of a client of the balancer."""

SETTINGS = """
global
    stats socket {folder}/haproxy.sock
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend book
    bind 127.0.0.1:{port}
    default_backend hosts
backend hosts
    option httpchk GET /readyz
    source {balancer}
    default-server send-proxy-v2 check inter 200ms fall 1 rise 1
    server one 127.0.0.1:{service} port {monitor}
backend connects
    source {balancer}
    server two 127.0.0.1:{service} send-proxy-v2 check inter 200ms
"""


@pytest.fixture
def balanced(start: Start) -> Service:
    """Return a service that trusts the balancer's address."""
    return start("--proxy-protocol-networks", BALANCER, "--http", "127.0.0.1:0")


@pytest.fixture
def port(balanced: Service, tmp_path: Path) -> Iterator[int]:
    """Run HAProxy in front of the service; yield the port that clients connect to."""
    found = free_port()
    monitor = urlsplit(url_of_monitor(balanced)).port
    settings = tmp_path / "haproxy.cfg"
    settings.write_text(
        SETTINGS.format(
            folder=tmp_path, port=found, balancer=BALANCER, service=balanced.port, monitor=monitor
        )
    )
    command = [needs.path_of("haproxy"), "-db", "-f", str(settings)]
    with launched(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield found
        process.terminate()


def states(folder: Path) -> dict[str, str]:
    """Return what HAProxy thinks of each of its servers, once it has checked them."""
    with socket.socket(socket.AF_UNIX) as asked:
        try:
            asked.connect(str(folder / "haproxy.sock"))
        except OSError:
            return {}
        asked.sendall(b"show stat\n")
        text = asked.makefile().read()
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return {row["svname"]: row["status"] for row in rows if row["check_status"]}


def test_a_real_balancer_and_its_checks(balanced: Service, port: int, tmp_path: Path) -> None:
    """Clients are themselves behind it, it sees what is ready, and its checks are no offence."""
    up = {"one": "UP", "two": "UP"}
    eventually(lambda: states(tmp_path) == up, "it has checked both")
    connected = socket.create_connection(("127.0.0.1", port), PATIENCE_S, (ELSEWHERE, 0))
    with Peer.over(connected) as peer:
        host, its_port = connected.getsockname()
        assert peer.ask(save("a")) == DENIED
        assert peer.authenticate(balanced.token)["message"] == "Authenticated!"
        (shown,) = Records([tmp_path / "user_data.audit"], action="authentication")
        assert shown.address == f"{host}:{its_port}"
    with Client(f"pwserver://{balanced.token}@127.0.0.1:{port}") as client:
        client.save_password("abc123", username="a")
        assert client.get_password("a").password == "abc123"
    assert "PROXY" not in balanced.stderr
    balanced.stop()
    eventually(lambda: states(tmp_path).get("one") == "DOWN", "it has noticed the end")
