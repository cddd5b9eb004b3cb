"""A worker process: what it is made of, from its start to its end.

Worker 1 has the store's committer and is the one that writes; the others have only a reader.
"""

import platform
import socket
import sys

import msgspec

from pwserver import __version__
from pwserver.errors import StorageFailed, StoreError
from pwserver.ipc import Scoreboard
from pwserver.tally import Tally
from workers.audit.log_rotation import Rotation
from workers.audit.record import AuditLog
from workers.auth.applications import Registry, limit_guests
from workers.auth.expiry import ExpiryWarnings
from workers.auth.throttle import Throttle
from workers.auth.usage import Usage
from workers.book.models import IdClock
from workers.book.vault import Vault
from workers.loop import Loop, WorkerStart
from workers.process import become_child, say_fatal
from workers.serving.checks import Checks
from workers.serving.commit_queue import CommitQueue
from workers.serving.context import Context
from workers.serving.name_queues import NameQueues
from workers.storage.stores import store_of
from workers.writer import Writer

WRITES = 1
"""The number of the worker that writes."""

_PARTS = {
    "pwserver": __version__,
    "python": platform.python_version(),
    "msgspec": msgspec.__version__,
}


def main(
    control: socket.socket, bell: socket.socket, scoreboard: Scoreboard, start: WorkerStart
) -> None:
    """Run worker number `start.number` until the listener says to stop or has died."""
    become_child(f"worker {start.number}")
    if start.number != WRITES:
        _run(control, bell, scoreboard, start, None)
        return
    settings = start.settings
    try:
        kept_ms = int(settings.requests_kept_s * 1000)
        keys, reserve_bytes = start.keyring.check_values, settings.disk_reserve_mib << 20
        patience_s = settings.save_timeout_s
        committer = store_of(settings).committer(
            keys, kept_ms, scoreboard, reserve_bytes, patience_s
        )
        _run(control, bell, scoreboard, start, Writer(committer))
    except (StoreError, StorageFailed) as error:
        say_fatal(control, error)
        sys.exit(error.exit_code)


def _run(
    control: socket.socket,
    bell: socket.socket,
    scoreboard: Scoreboard,
    start: WorkerStart,
    writer: Writer | None,
) -> None:
    settings, keyring, commit_queue = start.settings, start.keyring, CommitQueue()
    limit_guests(settings.guest_saves_per_s, settings.guest_users_max)
    tally = Tally(scoreboard.block(start.number))
    if writer is not None:
        writer.committer.tally = tally
    store = store_of(settings)
    reader = store.reader(scoreboard, None if writer is None else writer.committer)
    context = Context(
        vault=Vault(keyring),
        key_path=settings.key_path,
        ids=IdClock(0),  # another one when the worker begins
        commit_queue=commit_queue,
        name_queues=NameQueues(commit_queue, settings.save_timeout_s),
        reader=reader,
        registry=Registry(
            reader,
            keyring,
            settings.revisions_path,
            Usage(start.usage_table, start.number),
            None if writer is None else ExpiryWarnings(),
        ),
        audit=AuditLog(
            settings.audit_path,
            settings.audit_head_path,
            keyring.for_purpose("audit"),
            rotation=Rotation(settings.audit_bytes_max, settings.audit_files_kept),
            syslog=settings.audit_syslog,
        ),
        throttle=Throttle(start.guess_table, start.number),
        checks=Checks(settings.save_timeout_s),
        scoreboard=scoreboard,
        bell=bell,
        parts=_PARTS | store.parts,
        versions_kept=settings.versions_kept,
        keeps_decisions=writer is not None and bool(reader.links),
        tally=tally,
    )
    Loop(control, context, start, writer).run()
