"""The parts of a worker that its commands use."""

import logging
import math
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwserver.errors import KeyRefused, Unavailable
from pwserver.ipc import Scoreboard
from pwserver.tally import Tally
from workers.audit.actions import Action
from workers.audit.record import AuditLog
from workers.audit.refusals import Refusals
from workers.auth.applications import Caller, Registry
from workers.auth.peers import Peer
from workers.auth.throttle import Throttle
from workers.book import rows
from workers.book.keyring import read_keyring_again
from workers.book.models import IdClock, UserRow
from workers.book.vault import Vault
from workers.serving.checks import Checks
from workers.serving.commit_queue import CommitQueue
from workers.serving.delays import Delays
from workers.serving.kept import Kept
from workers.serving.name_queues import NameQueues
from workers.storage.answers import Pending, Steps, finish
from workers.storage.outage import DISK_LOW, DISK_LOW_FOR_GUESTS
from workers.storage.store import Reader

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Context:
    """The parts of a worker. `now` and `now_ms` are set once a turn.

    `until` is when requests that are not done yet must wait for the next turn.
    """

    vault: Vault
    key_path: Path
    ids: IdClock
    commit_queue: CommitQueue
    name_queues: NameQueues
    reader: Reader
    registry: Registry
    audit: AuditLog
    throttle: Throttle
    checks: Checks
    scoreboard: Scoreboard
    bell: socket.socket  # a byte here wakes the console
    parts: dict[str, str]  # of the service and of its store, with their versions, for `status`
    versions_kept: int  # older versions of each password
    keeps_decisions: bool = False  # those of other hosts, for all workers of this one
    refusals: Refusals = field(default_factory=Refusals)
    delays: Delays = field(default_factory=Delays)
    kept: Kept = field(default_factory=Kept)
    tally: Tally = field(default_factory=Tally)
    now: float = 0.0  # seconds of the monotonic clock
    now_ms: int = 0  # milliseconds since 1970
    until: float = float("inf")  # seconds of the monotonic clock
    _key_file: tuple[int, int] | None = None  # what tells the file from another one
    _refreshing: Pending | None = None  # the last `refresh`, if it waits for answers

    def give_time(self, seconds: float) -> None:
        """Give requests a moment from now; what is not done by then waits for its next turn."""
        self.until = time.monotonic() + seconds

    @property
    def late(self) -> bool:
        """Whether that moment is over."""
        return time.monotonic() > self.until

    def refresh(self) -> None:
        """Apply what an administrator has changed. Called once a tick; the answers may come later.

        Nothing is read again while the answers to the last call have not come.
        """
        if self._refreshing is None or self._refreshing.resolved:
            refreshing = finish(self.refreshed())
            self._refreshing = refreshing if isinstance(refreshing, Pending) else None

    def refreshed(self) -> Steps[None]:
        """Apply what an administrator has changed: applications, keys."""
        try:
            yield from self.registry.refresh(self.now_ms)
            chosen = yield self.reader.sealing_key()
            # An older key than was chosen before may have been put back by somebody.
            key_id = max(chosen, self.registry.sealing_key)
        except Unavailable as error:
            log.debug("what administrators change cannot be read now: %s", error)
            return
        if key_id != self.vault.key_id:
            self._seal_with(key_id)
        if self.keeps_decisions:
            self.registry.note(key_id)

    def look_at_keys(self) -> None:
        """Read the key file again if it has changed: rows of other hosts may need a new key."""
        try:
            found = os.stat(self.key_path)
        except OSError:
            return
        seen = found.st_ino, found.st_mtime_ns
        if seen == self._key_file:
            return
        self._key_file = seen
        try:
            keyring = read_keyring_again(self.key_path, self.vault.keyring)
        except KeyRefused as error:
            log.error("%s", error)
            return
        if keyring.keys.keys() > self.vault.keyring.keys.keys():
            self.vault = Vault(keyring, self.vault.key_id)

    def _seal_with(self, key_id: int) -> None:
        """Seal with another key from now on; if it is unknown, read the key file again."""
        keyring = self.vault.keyring
        try:
            if key_id not in keyring.keys:
                keyring = read_keyring_again(self.key_path, keyring)
            if key_id not in keyring.keys:
                raise KeyRefused(f"the key file lacks key {key_id}, which the database needs.")
        except KeyRefused as error:
            log.error("%s", error)
            return
        self.vault = Vault(keyring, key_id)
        log.info("passwords are sealed with key %d from now on", key_id)

    def why_no_room(self, caller: Caller) -> str | None:
        """Return why the disk has no room for a save of this client; None if it has.

        Clients without a token must leave as much room again for the others.
        """
        if not self.scoreboard.disk_low_for_guests:
            return None
        if self.scoreboard.disk_low:
            return DISK_LOW
        return DISK_LOW_FOR_GUESTS if caller.application is None else None

    def lacks_key_of(self, user: UserRow) -> bool:
        """Tell whether a user's key is unknown, so that `refreshed` must look for it first."""
        return user.key_id not in self.vault.keyring.keys

    def password(self, user: UserRow, version: int) -> tuple[str, int] | None:
        """Return a version of a user's password and when it was saved; None if it is not kept.

        Raises `DatabaseRefused` for a password that was tampered with.
        """
        return rows.open_version(self.vault, user, version)

    def note(self, peer: Peer, action: Action, user: str | None, outcome: str, **more: Any) -> None:
        """Note what a client did for the audit record, which is written every turn."""
        self.audit.note(
            time_ms=self.now_ms,
            application=peer.caller.application,
            address=peer.address,
            action=action,
            user=user,
            outcome=outcome,
            **more,
        )

    def note_refusal(
        self, peer: Peer, action: Action, user: str | None, outcome: str, **more: Any
    ) -> bool:
        """Note what any client can cause: of many from one peer, the first and their number.

        Return whether it is the first.
        """
        record = {
            "time_ms": self.now_ms,
            "application": peer.caller.application,
            "address": peer.address,
            "action": action,
            "user": user,
            "outcome": outcome,
        } | more
        first = self.refusals.add(record, self.now)
        if first is not None:
            self.audit.note(**first)
        return first is not None

    def sum_up_refusals(self, *, all_of_them: bool = False) -> None:
        """Note the numbers of refusals that are due. Called once a tick, and at the end."""
        for record in self.refusals.sum_up(math.inf if all_of_them else self.now):
            self.audit.note(**record)

    def write_record(self) -> bool:
        """Write the audit record of the turn; return whether all of it was written.

        After that the changes of which it tells go to the writer. If it cannot be written they are
        refused, and so are others that begin to be done because of that.
        """
        written = True
        while self.audit.pending:
            if written:
                written = self.audit.write()
            else:
                self.audit.give_up()
            for waiter in self.name_queues.go_on(self.now, recorded=written):
                waiter.settle()
        return written
