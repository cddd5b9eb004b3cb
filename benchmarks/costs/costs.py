"""What the parts cost: the figures behind the decisions in docs/decisions, measured again.

    python benchmarks/costs/costs.py

Each figure is the median of several repetitions in one process, in microseconds of wall time; the
disk is that of the temporary directory, or of `--directory`. They are for comparing lines with each
other: on a shared machine absolute times wander. What a worker does to a message is measured in
`costs_worker.py`, what is done to the book in `costs_book.py`, what guarding it takes in
`costs_guard.py`; here is what the disk and the whole service take.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it may be started by its path

from benchmarks.costs import costs_book, costs_guard, costs_worker
from benchmarks.costs.costing import REPETITIONS, Cost, per_call
from benchmarks.results.sheets import Sheet
from benchmarks.results.terminal import print_sheet
from benchmarks.servers.usage import Usage

PAGE = b"x" * 4096


def syncing(folder: Path) -> Iterator[Cost]:
    """Measure the disk: a sync of a file that grows, and of one that is overwritten."""
    for name, size in (("that grows", 0), ("overwritten in place", 8 * 1024 * 1024)):
        file = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.write(file, b"\1" * size)
        os.fsync(file)
        os.lseek(file, 0, os.SEEK_SET)

        def write(file: int = file) -> None:
            os.write(file, PAGE)
            os.fdatasync(file)

        yield f"write and sync a page of a file {name}", per_call(write, 200)
        os.close(file)


def starting(folder: Path) -> Iterator[Cost]:
    """Measure the service's start, and its memory when it has nothing to do (in KiB).

    Nobody but root may see the memory: its processes show theirs to no other.
    """
    command = [sys.executable, "-m", "pwserver", "serve", "--port", "0"]
    listening, answered, memory = [], [], []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as service:
            assert service.stdout is not None
            found = re.search(rb"on (\S+):(\d+),", service.stdout.readline())
            assert found, "the service did not start"
            listening.append(time.perf_counter() - began)
            with socket.create_connection((found[1].decode(), int(found[2]))) as client:
                client.sendall(b'{"message": "ping"}\n')
                client.recv(100)
            answered.append(time.perf_counter() - began)
            if os.geteuid() == 0:
                memory.append(Usage.of(service.pid).memory_bytes / 1024)
            service.terminate()
    yield "start the service until it listens", statistics.median(listening) * 1e6
    yield "start the service until its first reply", statistics.median(answered) * 1e6
    if memory:
        yield "memory of all its processes (PSS), in KiB", statistics.median(memory)


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", help="where files are written; it decides which disk")
    options = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="pwserver-costs-", dir=options.directory) as name:
        folder = Path(name)
        parts: list[Iterable[Cost]] = [
            costs_worker.sealing(),
            costs_worker.reading(),
            costs_worker.answering(),
            costs_worker.checking(),
            costs_guard.recording(folder),
            costs_guard.speaking_tls(folder),
            costs_book.inserting(folder),
            costs_book.with_users(folder, 1000),
            costs_book.with_users(folder, 1_000_000),
            syncing(folder),
            starting(folder),
        ]
        for part in parts:
            for what, figure in part:
                rows.append([what, f"{figure:,.2f}" if figure < 100 else f"{figure:,.0f}"])
    print_sheet(Sheet("What the parts cost", ["what", "microseconds"], rows))


if __name__ == "__main__":
    main()
