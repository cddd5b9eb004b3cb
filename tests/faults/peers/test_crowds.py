"""More clients than there is room for: they wait, nothing spins, and nobody is forgotten."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.faults.conftest import Start
from tests.faults.inject import is_silent, open_files, processor_seconds
from tests.support.books_wire import ALIVE, PING
from tests.support.harness import Peer, eventually, steady

FILES = 4096


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Let this process have a crowd of connections; skip where that is not allowed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < FILES:
        pytest.skip(f"the limit of open files is {before[1]}, and {FILES} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], FILES), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_few_open_files_allowed_are_survived(start: Start) -> None:
    """With 64 of them and 500 clients no processor spins; when those go it recovers within 2 s."""

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    service = start(preexec_fn=few_files)
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(service.peer()) for _ in range(500)]
        for peer in peers:
            peer.send(PING)
        for peer in peers[:16]:
            assert peer.reply() == ALIVE
        assert is_silent(peers[-1]), "others wait"
        pids = list(service.processes().values())
        before = processor_seconds(pids)
        threading.Event().wait(1)  # the time over which spinning would be seen
        assert processor_seconds(pids) - before < 0.5
    eventually(lambda: served(service.port), "served again", 2.0)
    assert "the limit of open files" in service.stderr


def served(port: int) -> bool:
    """Tell whether a new client is served within a moment."""
    with Peer(port) as peer:
        peer.send(PING)
        return not is_silent(peer, 0.5) and bool(peer.reply() == ALIVE)


def test_at_the_limit_of_connections_others_wait(start: Start) -> None:
    """Who comes past the limit is served as soon as somebody leaves, and no processor spins."""
    service = start("--connections-max", "4", "--workers", "2")
    peers = [service.peer() for _ in range(4)]
    for peer in peers:
        assert peer.save() == {"message": "Password saved!"}
    late = [service.peer() for _ in range(20)]
    for peer in late:
        peer.send(PING)
    pids = list(service.processes().values())
    before = processor_seconds(pids)
    assert all(is_silent(peer, 0.02) for peer in late), "the limit holds"
    assert processor_seconds(pids) - before < 0.3
    for peer in peers:
        peer.close()
    for peer in late:  # they were accepted in their order
        assert peer.reply() == ALIVE
        peer.close()


def test_a_burst_of_connections_is_served_whole(start: Start) -> None:
    """Connections that come faster than a worker takes them wait; none is sent away."""
    service = start("--workers", "1")
    with service.peer() as peer:
        peer.save()
    worker = service.child("worker 1")
    os.kill(worker, signal.SIGSTOP)
    burst = [service.peer() for _ in range(800)]
    os.kill(worker, signal.SIGCONT)
    for each in burst:
        assert each.ask(PING) == ALIVE
        each.close()


@pytest.mark.root("to see the open files of the service")
def test_nothing_leaks_over_many_connections(start: Start) -> None:
    """After a thousand connections the processes have as many open files as before."""
    service = start()
    with service.peer() as peer:
        peer.save()
    service.all_children()

    def files() -> list[int]:
        return [open_files(pid) for pid in service.processes().values()]

    before = steady(files, "the number of open files")
    for _ in range(1000):
        with service.peer() as peer:
            assert peer.save() == {"message": "Password saved!"}
    eventually(lambda: files() == before, "as many open files as before")
