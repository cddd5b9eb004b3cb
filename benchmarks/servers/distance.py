"""A way to a server as over a longer wire: what is sent arrives later, and no less of it a second.

    python -m benchmarks.servers.distance --to HOST:PORT --ms 5

Half of the time is spent on the way there, and half on the way back. Each direction of a connection
has a thread that receives, and one that sends what is due, so whatever is under way waits at the
same time. Threads, because they sleep to within a tenth of a millisecond; asyncio's clock has whole
ones.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from benchmarks.client.wire import RECEIVE_BYTES, Address
from benchmarks.results.options import address
from benchmarks.servers.servers import Started

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 10.0

UnderWay = SimpleQueue[tuple[float, bytes]]
"""What was received, and when it is due; nothing at the end."""


class Distance(Started):
    """The way to a server, so many milliseconds there and back."""

    def __init__(self, home: Path, there: Address, ms: float) -> None:
        options = ["--to", f"{there.host}:{there.port}", "--ms", str(ms)]
        command = [sys.executable, "-m", "benchmarks.servers.distance", *options]
        super().__init__("distance", command, home)


def receive(source: socket.socket, queue: UnderWay, delay_s: float) -> None:
    """Receive until the end, and note when each part is due at the other side."""
    data = b"begin"
    while data:
        try:
            data = source.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        queue.put((time.monotonic() + delay_s, data))


def send(target: socket.socket, queue: UnderWay) -> None:
    """Send each part when it is due, and the end."""
    with suppress(OSError):  # whoever it is for is gone
        while True:
            due, data = queue.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def lead(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Lead one direction of a connection."""
    queue: UnderWay = SimpleQueue()
    in_thread(receive, source, queue, delay_s)
    in_thread(send, target, queue)


def in_thread(function: Callable[..., None], *arguments: object) -> None:
    """Have a function work beside all others."""
    threading.Thread(target=function, args=arguments, daemon=True).start()


def main() -> None:
    """Listen on a free port, and lead each connection to where the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=address, required=True, metavar="HOST:PORT")
    parser.add_argument("--ms", type=float, required=True, help="there and back")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    listener = socket.create_server((HOST, 0))
    host, port = listener.getsockname()
    print(f"distance listening on {host}:{port}", flush=True)
    while True:
        near, _ = listener.accept()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far = options.to.connect(CONNECT_TIMEOUT_S)
        far.settimeout(None)
        lead(near, far, options.ms / 2000)
        lead(far, near, options.ms / 2000)


if __name__ == "__main__":
    main()
