"""A worker without its loop: its own code plans requests, and a book commits them."""

import socket
from pathlib import Path
from typing import Self

from pwserver.wire.messages import DeleteUser, LabelUser, RestorePassword, SavePassword
from tests.support.books import (
    BOTH_KEYS,
    KEY,
    NEXT_KEY,
    NOW_MS,
    Client,
    new_scoreboard,
    open_store,
    take_key,
)
from workers.audit.record import AuditLog
from workers.auth.applications import Registry
from workers.auth.throttle import GuessTable, Throttle
from workers.book.keyring import MasterKey
from workers.book.models import IdClock, UserRow
from workers.book.vault import Vault
from workers.serving.checks import Checks
from workers.serving.commit_queue import CommitQueue
from workers.serving.context import Context
from workers.serving.mutations import Delete, Label, Restore, Save
from workers.serving.name_queues import NameQueues, Write
from workers.storage.answers import at_once
from workers.storage.operations import DONE
from workers.storage.sqlite.reading import BookReader, ReadingConnection

_TIMEOUT_S = 5.0

Change = SavePassword | RestorePassword | LabelUser | DeleteUser


class Planner:
    """A new book that has two keys, and a worker that seals with the first one."""

    def __init__(self, path: Path, versions_kept: int = 10) -> None:
        self.store = open_store(path)
        take_key(self.store, NEXT_KEY.id)
        scoreboard = new_scoreboard()
        self.reader = reader = BookReader(scoreboard, ReadingConnection(path).connect)
        commit_queue = CommitQueue()
        record = path.with_suffix(".audit"), path.with_suffix(".audit-head")
        table = GuessTable(1)
        self.context = Context(
            vault=Vault(BOTH_KEYS, KEY.id),
            key_path=path.with_suffix(".key"),
            ids=IdClock(1),
            commit_queue=commit_queue,
            name_queues=NameQueues(commit_queue, _TIMEOUT_S),
            reader=reader,
            registry=Registry(reader, BOTH_KEYS, path.with_suffix(".revisions")),
            audit=AuditLog(*record, BOTH_KEYS.for_purpose("audit")),
            throttle=Throttle(table, 1),
            checks=Checks(_TIMEOUT_S),
            scoreboard=scoreboard,
            bell=socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
            parts={},
            versions_kept=versions_kept,
            now_ms=NOW_MS,
        )
        self.context.ids.advance(NOW_MS * 1_000_000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.bell.close()
        self.store.close()

    def seal_with(self, key: MasterKey) -> None:
        """Seal with another key from now on."""
        self.context.vault = Vault(BOTH_KEYS, key.id)

    def do(self, *changes: Change) -> None:
        """Plan each change as a worker does, and commit it; raise a `Refused`."""
        for change in changes:
            self.context.now_ms += 1000
            assert self.store.commit([], [at_once(self._write(change).plan())]) == [DONE]

    def _write(self, change: Change) -> Write:
        context, client = self.context, Client()
        if isinstance(change, SavePassword):
            return Save(context, client, change, change.password)
        if isinstance(change, RestorePassword):
            return Restore(context, client, change)
        if isinstance(change, LabelUser):
            return Label(context, client, change)
        return Delete(context, client, change)

    def row(self, name: str) -> UserRow:
        """Return the row of a user that must exist."""
        user = self.reader.find(0, name)
        assert user is not None
        return user

    def names(self) -> list[str]:
        """Return the names of all users, in their order."""
        return [entry.name for entry in self.reader.page(0, "", "", None, 1000)[0]]
