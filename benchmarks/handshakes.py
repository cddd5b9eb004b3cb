"""How much a burst of TLS handshakes delays a client that is connected already.

    python benchmarks/handshakes.py

Starts a service with TLS, and pings it over one connection: for a second, and then while thousands
of clients come at once. A few processes first send the beginning of all handshakes and then finish
them. They use the same processors as the service; clients elsewhere would not. Fails if a single
handshake does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from benchmarks.client.client_process import allow_many_files
from benchmarks.client.wire import CONTROL_TIMEOUT_S, Access, Address, BenchmarkFailed, shares
from benchmarks.results.options import described, positive
from benchmarks.results.progress import failures_said, messages
from benchmarks.results.sheets import Sheet
from benchmarks.results.terminal import print_sheet
from benchmarks.servers.service import ServiceOverTls

PING, ALIVE = b'{"message": "ping"}\n', b'{"message": "Alive!"}\n'
BEFORE_S = 1.0
OWN_FILES = 64
"""Descriptors that a process needs besides those of its clients."""


def burst(address: Address, clients: int, authority: str) -> None:
    """Do so many handshakes, all begun before the first is finished."""
    allow_many_files(clients + OWN_FILES)
    context = ssl.create_default_context(cafile=authority)
    begun = []
    for _ in range(clients):
        plain = address.connect(CONTROL_TIMEOUT_S)
        begun.append(
            context.wrap_socket(plain, server_hostname=address.host, do_handshake_on_connect=False)
        )
    for client in begun:
        client.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
    for client in begun:
        client.settimeout(CONTROL_TIMEOUT_S)
        client.do_handshake()
        client.sendall(PING)
        if not client.recv(1024):
            raise BenchmarkFailed("the service closed a connection after its handshake")
        client.close()


def pings(connection: socket.socket, go_on: Callable[[], bool]) -> list[float]:
    """Ask for signs of life for as long as `go_on` says; return how long each took, in ms."""
    times_ms = []
    while go_on():
        began = time.perf_counter()
        connection.sendall(PING)
        if connection.recv(1024) != ALIVE:
            raise BenchmarkFailed("a ping was not answered")
        times_ms.append((time.perf_counter() - began) * 1000)
    return times_ms


def show(before_ms: list[float], during_ms: list[float]) -> None:
    """Print both rows."""
    rows: list[list[str]] = []
    for what, times_ms in (("before", sorted(before_ms)), ("during the burst", sorted(during_ms))):
        positions = (len(times_ms) // 2, len(times_ms) * 99 // 100, -1)
        figures = [f"{times_ms[position]:.2f}" for position in positions]
        rows.append([what, f"{len(times_ms):,}", *figures])
    print_sheet(Sheet("Latencies in ms", ["pings", "answered", "p50", "p99", "max"], rows))


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = described(__doc__)
    add = parser.add_argument
    add("--handshakes", type=positive, default=5000, help="in the burst (default: %(default)s)")
    add("--processes", type=positive, default=2, help="that make them (default: %(default)s)")
    return parser


def run(options: argparse.Namespace) -> None:
    """Start a service, ping it alone and then beside a burst, and print what was found."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pwserver-tls-")))
        pool = stack.enter_context(
            ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"))
        )
        service = stack.enter_context(ServiceOverTls("pwserver", home))
        messages.print(service.banner)
        access = Access(service.address, authority=service.authority)
        connection = stack.enter_context(access.connect(CONTROL_TIMEOUT_S))
        for started in [pool.submit(os.getpid) for _ in range(options.processes)]:
            started.result()  # so that this is over before the clock starts
        until = time.perf_counter() + BEFORE_S
        before_ms = pings(connection, lambda: time.perf_counter() < until)
        began = time.perf_counter()
        parts: list[Future[None]] = [
            pool.submit(burst, service.address, share, service.authority)
            for share in shares(options.handshakes, options.processes)
        ]
        during_ms = pings(connection, lambda: not all(part.done() for part in parts))
        for part in parts:
            part.result()
        took_s = time.perf_counter() - began
    show(before_ms, during_ms)
    print(f"{options.handshakes:,} handshakes in {took_s:.1f} s, {options.processes} processes")


def main() -> None:
    """Measure, or say why not."""
    with failures_said():
        run(command_line().parse_args())


if __name__ == "__main__":
    main()
