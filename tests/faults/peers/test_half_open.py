"""A client's machine vanishes without a word: its connections are given up, others go on."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.canary import SAVE, WatchedService
from tests.faults.conftest import Start
from tests.faults.inject import open_files
from tests.support.books_wire import ALIVE, PING
from tests.support.harness import Peer, eventually, steady
from tests.support.network import SERVICE_ADDRESS, Network, network

pytestmark = pytest.mark.root("to make machines out of network namespaces")


@pytest.fixture
def cabled() -> Iterator[Network]:
    """Return two machines with a cable between them."""
    with network() as made:
        yield made


def start_on(cabled: Network, start: Start, *flags: str) -> WatchedService:
    """Start a service with one worker on one of the machines."""
    where = ("--host", SERVICE_ADDRESS, "--insecure", "--workers", "1")
    return start(*where, *flags, preexec_fn=cabled.service.enter)


def idle(peer: Peer) -> None:
    """Be a client that owes nothing and is owed nothing."""


def owed_replies(peer: Peer) -> None:
    """Be a client that has asked for a great deal, and was sent some of it."""
    peer.socket.setblocking(False)
    try:
        peer.socket.send(b'{"message": "ping"}\n' * 20_000)
    except BlockingIOError:
        pytest.fail("nothing could be sent")


def half_a_message(peer: Peer) -> None:
    """Be a client that has begun a message."""
    peer.send(b'{"message": "save_pass')


@pytest.mark.parametrize("state", [idle, owed_replies, half_a_message])
def test_a_machine_that_vanished_is_given_up(
    cabled: Network, start: Start, state: Callable[[Peer], None]
) -> None:
    """Whatever was under way, its connections are closed after a while; others notice nothing."""
    service = start_on(cabled, start, "--peer-timeout-s", "2")
    with cabled.peer_at_home(service.port) as other:
        assert other.ask(SAVE)["message"] == "Password saved!"
        worker = service.child("worker 1")
        before = steady(lambda: open_files(worker), "the worker's descriptors")
        peers = [cabled.peer(service.port) for _ in range(10)]
        for peer in peers:
            assert peer.ask(PING) == ALIVE
        assert open_files(worker) == before + 10
        for peer in peers:
            state(peer)
        cabled.pull_the_cable()

        def given_up() -> bool:
            assert other.ask(SAVE)["message"] == "Password saved!"
            return bool(open_files(worker) == before)

        eventually(given_up, "the vanished machine's connections are given up")
        for peer in peers:
            peer.close()


def test_a_deadline_is_sooner_than_the_networks(cabled: Network, start: Start) -> None:
    """Half a message from a machine that vanished is closed when a slow one's would be."""
    service = start_on(cabled, start, "--peer-timeout-s", "600", "--message-timeout-s", "1")
    with cabled.peer_at_home(service.port) as other, cabled.peer(service.port) as peer:
        assert other.ask(SAVE)["message"] == peer.ask(SAVE)["message"] == "Password saved!"
        worker = service.child("worker 1")
        before = steady(lambda: open_files(worker), "the worker's descriptors")
        half_a_message(peer)
        cabled.pull_the_cable()
        eventually(lambda: open_files(worker) == before - 1, "it is closed")
        assert other.ask(PING) == ALIVE
