"""Who watches the service does it no harm: scrapers, browsers that never read, and noise."""

import contextlib
import socket
import threading
from pathlib import Path

from tests.faults.conftest import Start
from tests.support.harness import PATIENCE_S, Service, eventually, meanwhile
from tests.support.http import ask, samples, url_of_monitor
from tests.support.shell import Shell

HTTP = ("--http", "127.0.0.1:0")


def _saves(service: Service) -> float:
    text = ask(f"{url_of_monitor(service)}metrics").text
    return samples(text)["pwserver_requests_total", "save_password", "ok"]


def test_a_killed_monitor_is_replaced_and_nobody_notices(start: Start, tmp_path: Path) -> None:
    """Clients of the service go on; who asks the monitor is answered by its successor."""
    service = start(*HTTP)
    url = url_of_monitor(service)
    with service.peer() as peer:
        peer.save()
        service.replace("monitor")
        assert peer.save()["message"] == "Password saved!"
    assert ask(f"{url}healthz").status == 200, "the address is the same"
    assert Shell(tmp_path).run("health").code == 0
    assert service.stop() == 0
    assert not (tmp_path / "user_data.http").exists()


def test_a_scrape_every_100_ms_holds_nobody_up(start: Start) -> None:
    """All are answered, and so are the saves that come meanwhile."""
    service = start(*HTTP)
    url = url_of_monitor(service)
    answered: list[int] = []

    def scrape(over: threading.Event) -> None:
        while not over.wait(0.1):
            answered.append(ask(f"{url}metrics").status)

    with service.peer() as peer, meanwhile(scrape, scrape):
        saved = 0
        while len(answered) < 30:
            assert peer.save()["message"] == "Password saved!"
            saved += 1
    assert {*answered} == {200}
    assert saved > 30
    eventually(lambda: _saves(service) == saved, "all are counted")


def test_a_browser_that_never_reads_is_cut_off(start: Start) -> None:
    """Others are answered meanwhile, and it is disconnected within a bounded time."""
    service = start(*HTTP)
    url = url_of_monitor(service)
    port = int(url.rstrip("/").rpartition(":")[2])
    with contextlib.ExitStack() as crowd:
        silent = [
            crowd.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
            for _ in range(20)
        ]
        for each in silent[:10]:  # the others send nothing at all
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            each.sendall(b"GET /page/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ask(f"{url}metrics").status == 200
        with service.peer() as peer:
            assert peer.save()["message"] == "Password saved!"
        for each in silent[10:]:
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
    assert service.child("monitor")


def test_garbage_is_refused(start: Start) -> None:
    """What is no HTTP is answered with 400 or closed, and the monitor goes on without a word."""
    service = start(*HTTP)
    url = url_of_monitor(service)
    pid = service.child("monitor")
    said = service.stderr
    endless = b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000
    for sent in (b"\0" * 10_000, endless, b"\x16\x03\x01xx\r\n\r\n"):
        address = "127.0.0.1", int(url[:-1].rpartition(":")[2])
        client = socket.create_connection(address, PATIENCE_S)
        with client, contextlib.suppress(ConnectionError):
            client.sendall(sent)
            assert client.recv(100)[:12] in (b"", b"HTTP/1.1 400")
    assert ask(f"{url}healthz").status == 200
    assert service.child("monitor") == pid
    assert service.stderr == said
