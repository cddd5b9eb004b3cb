"""The backup process: it makes a backup of the book from time to time, and verifies it.

A process of its own, because a backup of many users takes seconds. It reads the book as a worker
does, and needs the keys. When the next backup is due follows from the newest one in the folder, so
a restart of the service changes nothing. After a failure it tries again soon. If it does not
respond, for example because the folder's disk does not, the listener kills it, and its successor
finds on the scoreboard that a backup had begun.
"""

import contextlib
import logging
import os
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from pwserver.config import Settings
from pwserver.errors import KeyRefused, PwserverError
from pwserver.ipc import Scoreboard, receive_control
from pwserver.limits import TICK_S
from workers.admin.backup import NICENESS, Backup, back_up
from workers.book.keyring import Keyring, read_keyring_again
from workers.process import become_child, say_ready
from workers.storage.backup_files import KILLED, backups_of, number_of, remove_oldest, time_ms

_RETRY_S = 600.0
"""How long after a failure the next try is, unless a backup is due sooner."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BackupsStart:
    """What the process is started with."""

    number: int  # its place on the scoreboard
    settings: Settings
    keyring: Keyring


class _Stopped(Exception):
    """The listener says to stop, or is gone."""


def main(control: socket.socket, scoreboard: Scoreboard, start: BackupsStart) -> None:
    """Make backups until the listener says to stop or has died."""
    become_child("backup")
    os.nice(NICENESS)
    say_ready(control)
    make_backups(control, scoreboard, start)


def make_backups(control: socket.socket, scoreboard: Scoreboard, start: BackupsStart) -> None:
    """Do the work of the process."""
    with contextlib.suppress(_Stopped):
        _Backups(control, scoreboard, start).run()


class _Backups:
    def __init__(self, control: socket.socket, scoreboard: Scoreboard, start: BackupsStart) -> None:
        self._control = control
        self._scoreboard = scoreboard
        self._number = start.number
        self._settings = start.settings
        self._folder = Path(start.settings.backup_dir)
        self._keyring = start.keyring

    def run(self) -> None:
        """Make a backup whenever one is due."""
        every_s = float(self._settings.backup_every_s)
        due = time.monotonic() + self._due_in_s(every_s)
        if self._scoreboard.backup_began_ms:
            log.error("%s", KILLED)
            self._scoreboard.backup_failed(number_of(KILLED))
            due = time.monotonic() + min(_RETRY_S, every_s)
        while True:
            self._live(TICK_S)
            if time.monotonic() >= due:
                made = self._back_up()
                due = time.monotonic() + (every_s if made else min(_RETRY_S, every_s))

    def _due_in_s(self, every_s: float) -> float:
        """Return when the first backup is due, from the newest that there is; note its time."""
        try:
            newest_ms = max(map(time_ms, backups_of(self._settings.path, self._folder)), default=0)
        except OSError:  # the backup will say what is wrong with the folder
            newest_ms = 0
        self._scoreboard.backup_ms = newest_ms
        return min(max(newest_ms / 1000 + every_s - time.time(), 0.0), every_s)

    def _live(self, wait_s: float = 0.0) -> None:
        """Show that this process is well; raise `_Stopped` if it is to end."""
        self._scoreboard.beat(self._number)
        if select.select([self._control], [], [], wait_s)[0] and receive_control(self._control):
            raise _Stopped

    def _back_up(self) -> bool:
        """Make a backup; log how that went, and put it on the scoreboard."""
        self._scoreboard.backup_begins()
        try:
            made = self._make()
        except _Stopped:
            self._scoreboard.backup_begins(at_ms=0)
            raise
        except (PwserverError, OSError) as error:
            log.error("the backup failed: %s", error)
            self._scoreboard.backup_failed(number_of(error))
            return False
        self._scoreboard.backup_made(time_ms(made.path), round(made.took_s * 1000), made.size_bytes)
        log.info(
            "backup %s: %d users, %d bytes, verified, in %.1f s",
            *(made.path, made.users, made.size_bytes, made.took_s),
        )
        self._remove_oldest()
        return True

    def _make(self) -> Backup:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._keyring = read_keyring_again(self._settings.key_path, self._keyring)
        except KeyRefused as error:
            log.warning("%s The keys known so far are used.", error)
        reserve_bytes = self._settings.disk_reserve_mib * 1024 * 1024
        return back_up(
            self._settings, self._keyring, self._folder, lambda *_: self._live(), reserve_bytes
        )

    def _remove_oldest(self) -> None:
        try:
            removed = remove_oldest(self._settings.path, self._folder, self._settings.backup_keep)
        except OSError as error:
            log.warning("the oldest backups cannot be removed: %s", error)
        else:
            for path in removed:
                log.info("backup %s is removed: there are newer ones", path)
