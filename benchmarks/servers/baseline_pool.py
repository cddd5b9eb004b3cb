"""The same service written the straightforward way, to compare the real one with.

A listener accepts connections and hands each one, as a task, to a `multiprocessing.Pool`. A
worker process serves that connection until it ends: for each message `Model.create()` on SQLite in
WAL mode with `synchronous=FULL`, or `Model.select().count()`, and then the reply. It speaks the
three exchanges of the contract and nothing else. Passwords are not sealed and no users are printed,
which favours it.

The pool must have as many processes as there are connections at once; `load.py` asks for enough. A
task for each message was tried too, on 2 to 64 processes: at 64 connections it did at most half as
many saves a second. SQLite's lock is waited for as long as it takes.

Run it alone with
`python -m benchmarks.servers.baseline_pool --port 12345 --database /tmp/baseline.db`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import socket
import sys
import traceback
from multiprocessing.pool import Pool

from benchmarks.servers.web_book import LOCK_TIMEOUT_S, User, database

PROCESSES = 64
BACKLOG = 4096


def open_database(path: str) -> None:
    """Open the one connection of this process."""
    pragmas = {"journal_mode": "wal", "synchronous": "full"}
    database.init(path, pragmas=pragmas, timeout=LOCK_TIMEOUT_S)
    database.connect()


def start_worker(path: str) -> None:
    """Prepare a process of the pool: the listener alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    open_database(path)


def reply_to(line: bytes) -> dict[str, object]:
    """Do what one message asks for and return its reply."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    match message:
        case {"message": "save_password", "password": str(password)}:
            User.create(password=password)
            return {"message": "Password saved!"}
        case {"message": "number_of_users"}:
            number = User.select().count()
            return {"message": "return_number_of_users", "number_of_users": number}
    return {"message": "Invalid message!"}


def serve(connection: socket.socket) -> None:
    """Answer one connection, a message at a time, until the client closes it."""
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(json.dumps(reply_to(line)).encode() + b"\n")
            stream.flush()


def hand_over(pool: Pool, connection: socket.socket) -> None:
    """Give `connection` to the pool; the listener's copy is closed when the worker is done."""

    def done(_: object) -> None:
        connection.close()

    def failed(error: BaseException) -> None:
        traceback.print_exception(error)
        connection.close()

    pool.apply_async(serve, (connection,), callback=done, error_callback=failed)


def main() -> None:
    """Listen where the command line says until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--database", required=True, metavar="FILE")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="connections at once")
    options = parser.parse_args()
    open_database(options.database)
    database.create_tables([User])
    database.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    # fork, so that hundreds of processes start in a second; no thread exists yet, and no database
    # is open. Leaving the block ends them all.
    context = multiprocessing.get_context("fork")
    with context.Pool(options.processes, start_worker, (options.database,)) as pool:
        listener = socket.create_server((options.host, options.port), backlog=BACKLOG)
        host, port = listener.getsockname()[:2]
        print(f"baseline_pool listening on {host}:{port}", flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hand_over(pool, connection)


if __name__ == "__main__":
    main()
