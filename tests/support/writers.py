"""The writer without its worker's loop, and the channels of other workers to it."""

import time
from pathlib import Path
from typing import Any

from pwserver.ipc import FrameReader, Scoreboard, frame, frame_channel
from tests.support.books import KEYRING, REQUESTS_KEPT_MS
from workers.book.models import Row
from workers.storage.operations import Operation
from workers.storage.sqlite.committing import SqliteCommitter
from workers.writer import Writer


def open_writer(path: Path, scoreboard: Scoreboard, reserve_bytes: int = 0) -> Writer:
    """Open a database as worker 1 does."""
    keys = KEYRING.check_values
    return Writer(SqliteCommitter(path, keys, REQUESTS_KEPT_MS, scoreboard, reserve_bytes))


def committer_of(writer: Writer) -> SqliteCommitter:
    """Return what a writer commits with."""
    assert isinstance(writer.committer, SqliteCommitter)
    return writer.committer


class AtWriter:
    """A worker's end of a channel to a writer."""

    def __init__(self, writer: Writer) -> None:
        self.channel, its = frame_channel()
        self._reader = FrameReader(self.channel)
        self._writer = writer
        self._fd = its.detach()
        writer.add_worker(self._fd)
        (self.newest_id,) = self._reader.read()

    def send(self, rows: list[Row], operations: list[Operation]) -> None:
        """Send a batch."""
        self.channel.send(frame((rows, operations, time.monotonic())))

    def receive(self) -> bool:
        """Have the writer receive what was sent; return whether it finds this worker alive."""
        return self._writer.receive(self._fd)

    def answers(self) -> list[Any]:
        """Return the answers that have come."""
        return list(self._reader.read())

    def close(self) -> None:
        """Die."""
        self.channel.close()
