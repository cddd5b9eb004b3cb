"""The demonstration: the three messages of the basic contract, and a service's answers.

It starts a service of its own with a book in a temporary folder, so that no service need run, no
other book is changed, and nothing is left afterwards. It uses a plain socket: a main application in
any language needs only that and JSON.
"""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

from pwserver.config import environment_variable
from pwserver.errors import ConfigError, ConnectionFailed

MESSAGES = (
    {"message": "number_of_users"},
    {"message": "save_password", "password": "abc123"},
    {"message": "another_message", "data": "some_data"},
)

_LISTENING = re.compile(rb"listening on 127\.0\.0\.1:(\d+)")
_TIMEOUT_S = 30.0
"""How long the service may take to start, or to answer: generous, for slow machines."""

_STOP_S = 15.0
"""How long the service may take to stop; after 10 s it kills its children (`stop_timeout_s`)."""

_SERVE = ("-m", "pwserver", "serve", "--port", "0", "--workers", "1")


def demonstration() -> Generator[tuple[dict[str, str], Any]]:
    """Yield each message with the answer of a service that is started for it."""
    with (
        _interruptible(),
        _folder() as folder,
        _service(folder) as port,
        socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as connection,
        connection.makefile("rb") as replies,
    ):
        for message in MESSAGES:
            try:
                connection.sendall(json.dumps(message).encode())
                reply = json.loads(replies.readline())
            except (OSError, ValueError) as error:
                raise ConnectionFailed(f"the service for it did not answer: {error}.") from None
            yield message, reply


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Clean up after SIGTERM and SIGHUP as after Ctrl-C."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="pwserver-demo-")
    except OSError as error:
        raise ConfigError(f"there is no temporary folder to use: {error.strerror}.") from None
    with folder as name:
        yield name


@contextlib.contextmanager
def _service(folder: str) -> Iterator[int]:
    """Run a service whose files are in a folder; yield its port."""
    settings = environment_variable("")
    environment = {name: value for name, value in os.environ.items() if settings not in name}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *_SERVE],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops it
        )
        try:
            yield _port(process, log)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _port(process: "subprocess.Popen[bytes]", log: Any) -> int:
    """Wait until the service listens; raise `ConnectionFailed` with its last line if it fails."""
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + _TIMEOUT_S
    while not (found := _LISTENING.search(said)):
        ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
        more = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not more:
            log.seek(0)
            words = log.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ConnectionFailed(f"the service for it did not start. {words}".strip())
        said += more
    return int(found[1])
