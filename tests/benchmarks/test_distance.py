"""The distance that a benchmark puts before a server delays everything, and loses nothing."""

import socket
import threading
import time
from pathlib import Path

from benchmarks.client.wire import Address
from benchmarks.servers.distance import Distance

MS = 40.0
SENT = bytes(range(256)) * 4096 * 8
"""8 MiB: more than what is under way in sockets."""


def answer(listener: socket.socket) -> None:
    """Send back what comes on the first connection, until its end."""
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def test_all_arrives_later_and_in_its_order(tmp_path: Path) -> None:
    """A byte takes the time there and back; so do megabytes, since they wait at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        address = Address(*listener.getsockname())
        with (
            Distance(tmp_path, address, MS) as distance,
            distance.address.connect(60.0) as connection,
        ):
            began = time.monotonic()
            connection.sendall(b"?")
            assert connection.recv(1) == b"?"
            assert time.monotonic() - began >= MS / 1000
            threading.Thread(target=connection.sendall, args=(SENT,), daemon=True).start()
            received = bytearray()
            while len(received) < len(SENT):
                received += connection.recv(1 << 20)
            assert received == SENT
