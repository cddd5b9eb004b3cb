"""Clients that send too slowly, or never read: cut off at a deadline, and nobody waits for them."""

import contextlib
import random
import select
import socket
import time
from pathlib import Path

from pwserver.limits import KEPT_BYTES_MAX
from tests.faults.conftest import Start
from tests.faults.inject import memory_kib
from tests.support.books_wire import ALIVE, PING, ask_all, save
from tests.support.harness import Peer, Service, eventually, unix_peer


def test_a_message_that_never_ends_is_given_up(start: Start) -> None:
    """A client that begins a message and dawdles is answered and closed at the deadline."""
    service = start("--message-timeout-s", "1")
    with service.peer() as slow, service.peer() as idle:
        began = time.monotonic()
        slow.send(b'{"message": "save_pa')
        assert slow.reply()["error"] == "The message is cut short."
        assert slow.ended()
        assert time.monotonic() - began > 0.9
        assert idle.save() == {"message": "Password saved!"}, "a silent client may stay"


def test_hundreds_of_slow_senders_are_closed(start: Start) -> None:
    """A byte now and then buys nobody time; others are answered all the while; memory is bounded.

    Where they are closed, room is made: they are all there is room for, and new ones come.
    """
    service = start("--message-timeout-s", "1", "--connections-max", "310")
    with contextlib.ExitStack() as crowd:
        others = [crowd.enter_context(service.peer()) for _ in range(4)]
        for peer in others:
            assert peer.save() == {"message": "Password saved!"}
        workers = [service.child("worker 1"), service.child("worker 2")]
        before = sum(map(memory_kib, workers))
        slow = [crowd.enter_context(service.peer()) for _ in range(300)]
        for peer in slow:
            peer.send(b'{"message":')
        order, closed, rounds = random.Random(7), 0, 0
        while slow:
            for peer in order.sample(slow, len(slow) // 4 + 1):
                if not sends_a_byte(peer):
                    slow.remove(peer)
                    closed += 1
            for peer in others:
                assert peer.ask(PING) == ALIVE
            rounds += 1
        assert closed == 300
        assert rounds > 4, "they were not closed at once"
        assert sum(map(memory_kib, workers)) - before < 16 * 1024
        assert crowd.enter_context(service.peer()).save() == {"message": "Password saved!"}


def sends_a_byte(peer: Peer) -> bool:
    """Send one more byte of a message that has no end; tell whether the service still listens."""
    peer.socket.setblocking(False)
    try:
        peer.socket.send(b" ")
        peer.socket.recv(1)  # the answer that it took too long, or the end
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def test_clients_that_never_read_are_dropped(start: Start) -> None:
    """Replies nobody takes are bounded in memory, which is given back; they end at the deadline."""
    service = start("--send-timeout-s", "1", "--workers", "1")
    with service.peer() as other:
        other.save()
        worker = service.child("worker 1")
        before = memory_kib(worker)
        greedy = [never_reads(service) for _ in range(4)]
        most = 0

        def all_dropped() -> bool:
            nonlocal most
            most = max(most, memory_kib(worker))
            assert other.save() == {"message": "Password saved!"}
            greedy[:] = [each for each in greedy if still_takes(each)]
            return not greedy

        eventually(all_dropped, "the greedy clients are dropped")
        assert most - before < 4 * 4 * 1024
        eventually(lambda: memory_kib(worker) - before < 16 * 1024, "memory is given back")


def test_a_crowd_that_never_reads_fills_no_memory(start: Start, tmp_path: Path) -> None:
    """What all of them keep is bounded, far below what each may keep; the greatest are ended.

    The kernel keeps less for a Unix socket than for TCP, and the service the rest.
    """
    path = tmp_path / "socket"
    service = start("--workers", "1", "--unix", str(path))
    labels = [f"{n:02}{'x' * 62}" for n in range(16)]
    with contextlib.ExitStack() as stack:
        other, owner = stack.enter_context(service.peer()), stack.enter_context(service.owner())
        saves = [save(f"user {number}", labels=labels) for number in range(250)]
        assert {reply["message"] for reply in ask_all(owner, saves)} == {"Password saved!"}
        lists = b'{"message": "list_users", "limit": 1000}\n' * 4  # a megabyte of replies
        worker = service.child("worker 1")
        before = most = memory_kib(worker)
        crowd = [stack.enter_context(unix_peer(path)) for _ in range(300)]
        for peer in crowd:
            peer.authenticate(service.token)
            peer.send(lists)

        def many_are_ended() -> bool:
            nonlocal most
            most = max(most, memory_kib(worker))
            assert other.save() == {"message": "Password saved!"}
            return sum(map(hung_up, crowd)) > 200  # 40 may keep what they keep

        eventually(many_are_ended, "most of the crowd are ended")
        assert most - before < 3 * KEPT_BYTES_MAX // 1024
        assert owner.ask(PING) == ALIVE, "who reads is not ended, although its peer keeps most"
        for peer in crowd:
            peer.close()
        eventually(
            lambda: memory_kib(worker) - before < KEPT_BYTES_MAX // 1024, "memory is given back"
        )


def hung_up(peer: Peer) -> bool:
    """Tell whether the service has closed a connection, whatever there is to be read."""
    closed = select.poll()
    closed.register(peer.socket, select.POLLRDHUP)
    return bool(closed.poll(0))


def never_reads(service: Service) -> socket.socket:
    """Return a connection that is only sent to."""
    greedy = socket.create_connection(("127.0.0.1", service.port))
    greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    greedy.settimeout(0.02)
    return greedy


def still_takes(greedy: socket.socket) -> bool:
    """Send a great many requests; tell whether the connection is still there, else close it."""
    try:
        greedy.send(b'{"message": "ping"}\n' * 10_000)
    except TimeoutError:
        return True
    except OSError:
        greedy.close()
        return False
    return True
