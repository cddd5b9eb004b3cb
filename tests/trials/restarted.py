"""A service that is ended and started again, on the same port and files: what trials do things to.

It is started as tests start theirs. Its processes are found by their session, whoever is their
parent by then, and told apart by the titles that they give themselves. Its files are in a folder of
their own, which is a small file system where one is to be filled; what it prints and logs is kept
beside that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pwserver.config import StoreSettings
from tests.support.books_wire import ALIVE, PING
from tests.support.harness import Peer, Service, eventually, free_port, named
from tests.support.processes import session
from tests.support.shell import TREE_ENVIRONMENT
from tests.trials.report import TrialFailed

FORK_SERVER = "fork server"
LISTENER = "listener"
BESIDE = ("-shm", "-wal")
"""What SQLite has beside a database, in the order in which `rm user_data.db*` takes it."""

ANSWER_TIMEOUT_S = 1.0


class RestartedService:
    """A service in a folder, which it makes and in the end gives back; started again and again.

    `options` are flags of `pwserver serve`. `disk_bytes` is the size of the file system that is
    made for its files, 0 for none.
    """

    def __init__(self, home: Path, options: Sequence[str], disk_bytes: int = 0) -> None:
        self.folder = home / "book"
        self.output = home / "output"
        self.backup = home / "backup.db"
        self.store = StoreSettings(database=str(self.folder / "user_data.db"))
        self.port = free_port()
        self._options = options
        self._running: Service | None = None
        self.folder.mkdir(mode=0o700)
        self.output.mkdir(mode=0o700)
        self.mounted = bool(disk_bytes) and _mount(self.folder, disk_bytes)

    # --- Start and end. ---

    def start(self) -> float:
        """Start it; return the seconds until it has answered."""
        self.kill_everything()  # whatever the one before may have left
        began = time.monotonic()
        with self.stdout.open("ab") as out:
            self._running = Service(
                self.output,
                *self.files,
                *("--disk-reserve-mib", "0"),  # its disk may be smaller than the usual reserve
                *self._options,
                port=self.port,
                stdin=subprocess.DEVNULL,
                stdout=out,
                env=TREE_ENVIRONMENT,
            )
        eventually(lambda: self.ended is not None or self.answers(), "the service answers")
        if self.ended is not None:
            raise TrialFailed(f"the service did not start: {self.last_words()}")
        return time.monotonic() - began

    @property
    def running(self) -> Service:
        """The service as it was started last."""
        assert self._running is not None
        return self._running

    @property
    def pid(self) -> int:
        """The process id of its listener, by which all its processes are known."""
        return self.running.process.pid

    def kill_everything(self) -> None:
        """End all of its processes by force, whatever state they are in."""
        if self._running is not None:
            self._running.kill_everything()

    def signal_all(self, number: int) -> None:
        """Send a signal to all of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return None if self._running is None else self._running.process.poll()

    def answers(self) -> bool:
        """Tell whether it answers a guest that comes now."""
        with suppress(OSError, AssertionError), Peer(self.port) as peer:
            peer.socket.settimeout(ANSWER_TIMEOUT_S)
            return bool(peer.ask(PING) == ALIVE)
        return False

    # --- Processes. ---

    def processes(self) -> list[int]:
        """Return all of its processes that are alive."""
        return session(self.pid)

    def children(self) -> dict[str, int]:
        """Return its processes but for the listener, by name."""
        return named(pid for pid in self.processes() if pid != self.pid)

    # --- Files. ---

    @property
    def database(self) -> Path:
        """The database."""
        return self.store.path

    @property
    def files(self) -> list[str]:
        """The flags that name its files, for it and for the commands of its administrator."""
        return ["--database", str(self.database)]

    @property
    def stdout(self) -> Path:
        """What it has printed."""
        return self.output / "stdout"

    @property
    def stderr(self) -> Path:
        """What it has logged."""
        return self.output / "stderr"

    def last_words(self) -> str:
        """Return the end of what it has logged."""
        return " / ".join(self.stderr.read_text(errors="replace").strip().splitlines()[-3:])

    def remove_database(self, *beside: str) -> None:
        """Remove the database as a user does: its file, and some of those beside it."""
        for ending in ("", *beside):
            Path(f"{self.database}{ending}").unlink(missing_ok=True)

    def back_up(self) -> None:
        """Copy the database, which is one file while the service is stopped."""
        shutil.copy(self.database, self.backup)

    def put_back(self) -> None:
        """Put the copy in the place of the database; to be done while the service is stopped."""
        self.remove_database(*BESIDE)
        shutil.copy(self.backup, self.database)

    def fill_disk(self) -> None:
        """Leave no room on the file system of its files."""
        with self._ballast.open("wb", buffering=0) as ballast:
            block = bytes(1 << 20)
            while len(block) >= 4096:
                try:
                    while ballast.write(block):
                        pass
                except OSError:
                    block = block[: len(block) // 2]

    def empty_disk(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def clear(self) -> None:
        """End everything, and give the file system back."""
        self.kill_everything()
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


def _mount(folder: Path, size_bytes: int) -> bool:
    """Mount a small file system on a folder; return whether that was allowed."""
    options = f"size={size_bytes},mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
