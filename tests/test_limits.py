"""Limits and deadlines: slow, silent and greedy clients, and too many of them."""

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from tests.conftest import Start
from tests.harness import SAVED, Service, eventually, steady

SAVE = {"message": "save_password", "password": "abc123"}


def memory_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_a_message_that_never_ends_is_given_up(start: Start) -> None:
    """A client that begins a message and dawdles is answered and closed at the deadline."""
    service = start("--message-timeout-s", "1")
    with service.peer() as slow, service.peer() as idle:
        began = time.monotonic()
        slow.send(b'{"message": "save_pa')
        assert slow.reply()["error"] == "The message is cut short."
        assert slow.ended()
        assert 0.9 < time.monotonic() - began < 5
        assert idle.save() == {"message": "Password saved!"}, "a silent client may stay"


def test_a_client_that_never_reads_is_dropped(start: Start) -> None:
    """Replies nobody takes are bounded in memory, and end the connection at the deadline."""
    service = start("--send-timeout-s", "1", "--workers", "1")
    with service.peer() as other:
        other.save()
        before = memory_kib(service.child("worker 1"))
        greedy = socket.create_connection(("127.0.0.1", service.port))
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.settimeout(0.2)
        request = b'{"message": "ping"}\n' * 10_000

        def dropped() -> bool:
            try:
                greedy.send(request)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        eventually(dropped, "the greedy client is dropped")
        greedy.close()
        assert other.save() == {"message": "Password saved!"}
        assert memory_kib(service.child("worker 1")) - before < 32 * 1024


def test_a_long_pipeline_before_reading_is_served(service: Service) -> None:
    """A client may send far more than may be in flight before it reads its first reply."""
    with service.peer() as peer:
        peer.send(*[SAVE] * 20_000)
        assert [peer.line() for _ in range(20_000)] == [SAVED] * 20_000
        assert peer.count() == 20_000


def test_at_the_limit_of_connections_others_wait(start: Start) -> None:
    """Who comes past the limit is served as soon as somebody leaves."""
    service = start("--connections-max", "4", "--workers", "2")
    peers = [service.peer() for _ in range(4)]
    for peer in peers:
        assert peer.ask({"message": "ping"}) == {"message": "Alive!"}
    with service.peer() as late:
        late.send({"message": "ping"})
        late.socket.settimeout(0.3)
        try:
            early = late.socket.recv(1)
        except TimeoutError:
            early = b""
        assert early == b"", "the limit holds"
        peers.pop().close()
        late.socket.settimeout(20)
        assert late.reply() == {"message": "Alive!"}
    for peer in peers:
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
        assert each.ask({"message": "ping"}) == {"message": "Alive!"}
        each.close()


def test_few_open_files_allowed_are_survived(start: Start, tmp_path: Path) -> None:
    """With room for a few connections and 200 clients, no processor spins and all recover."""

    def few_files() -> None:
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))

    service = start(preexec_fn=few_files)
    peers = [service.peer() for _ in range(200)]
    before = _processor_seconds(service)
    time.sleep(1)  # the time over which spinning would be seen
    assert _processor_seconds(service) - before < 0.5
    for peer in peers:
        peer.close()

    def served() -> bool:
        with service.peer() as peer:
            return bool(peer.save()["message"] == "Password saved!")

    eventually(served, "served again", 2.0)
    assert "the limit of open files" in service.stderr


def _processor_seconds(service: Service) -> float:
    ticks = 0
    for pid in [service.process.pid, *service.children().values()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def test_a_full_queue_is_said_at_once(start: Start) -> None:
    """With the writer stopped, saves past the limit are refused, and counts go on."""
    service = start("--workers", "1", "--in-flight-max", "1000000", "--save-timeout-s", "60")
    writer = service.child("writer")
    with service.peer() as peer, service.peer() as other:
        peer.save()
        os.kill(writer, signal.SIGSTOP)
        great = json.dumps({"message": "save_password", "password": "x" * 4000}).encode() + b"\n"
        peer.socket.sendall(great * 6000)
        refused = eventually(lambda: _refusal(service), "a save is refused, whoever sends it", 8.0)
        assert "too many" in refused["error"]
        assert other.count() == 1
        os.kill(writer, signal.SIGCONT)
        words = [peer.reply()["message"] for _ in range(6000)]
        assert set(words) == {"Password saved!", "Not saved!"}
        assert set(words[:1000]) == {"Password saved!"}, "replies are in the order of the saves"


def _refusal(service: Service) -> Any:
    """Return the refusal of a save that finds the queue full, or None where it is not full."""
    with service.peer() as another:
        another.socket.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            return another.save()
    return None


def test_replies_stay_in_order_when_saves_are_given_up(start: Start) -> None:
    """Saves that waited too long are answered after those that were sent before them."""
    service = start("--save-timeout-s", "0.5", "--workers", "1")
    writer = service.child("writer")
    with service.peer() as peer, service.peer() as other:
        assert peer.save() == {"message": "Password saved!"}
        os.kill(writer, signal.SIGSTOP)
        for number in range(4):  # two batches go to the writer, the others wait
            peer.send({**SAVE, "id": number})
            assert other.ask({"message": "ping"}) == {"message": "Alive!"}
        refused = other.save()
        assert (refused["message"], "waited too long" in refused["error"]) == ("Not saved!", True)
        os.kill(writer, signal.SIGCONT)
        replies = [peer.reply() for _ in range(4)]
        assert [reply["id"] for reply in replies] == [0, 1, 2, 3]
        words = [reply["message"] for reply in replies]
        assert words == ["Password saved!"] * 2 + ["Not saved!"] * 2
        assert peer.count() == 3


def test_nothing_leaks_over_many_connections(service: Service) -> None:
    """After a thousand connections the processes have as many open files as before."""

    def open_files() -> list[int]:
        pids = [service.process.pid, *service.children().values()]
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]

    with service.peer() as peer:
        peer.save()
    eventually(lambda: len(service.children()) == 5, "all children run")
    before = steady(open_files, "the number of open files")
    for _ in range(1000):
        with service.peer() as peer:
            assert peer.save() == {"message": "Password saved!"}
    eventually(lambda: open_files() == before, "as many open files as before")
