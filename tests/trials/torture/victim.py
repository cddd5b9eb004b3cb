"""The service that is tortured: its files, its processes, and how it is started and ended.

Its processes are found by their process group, whoever is their parent by then, and told apart by
the titles that they give themselves. Its files are in a folder of their own, which is a small file
system where one is to be filled; what it prints and logs is kept beside that.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.client.wire import BenchmarkFailed
from benchmarks.servers.servers import PROJECT, environment
from pwserver.config import StoreSettings
from tests.trials.torture.load import HOST

FORK_SERVER = "fork server"
LISTENER = "listener"
BESIDE = ("-shm", "-wal")
"""What SQLite has beside a database, in the order in which `rm user_data.db*` takes it."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
GROUP_TIMEOUT_S = 10.0
POLL_S = 0.005
PING, ALIVE = b'{"message": "ping"}\n', b'{"message": "Alive!"}\n'

_TITLE = re.compile(rb"pwserver: ([^\0]*?) *(?:\0|$)")


class Victim:
    """A service in a folder, which it makes and in the end removes; started again and again.

    `options` are flags of `pwserver serve`. `disk_bytes` is the size of the file system that is
    made for its files, 0 for none.
    """

    def __init__(self, home: Path, options: Sequence[str], disk_bytes: int = 0) -> None:
        self.folder = home / "book"
        self.output = home / "output"
        self.backup = home / "backup.db"
        self.store = StoreSettings(database=str(self.folder / "user_data.db"))
        self.port = _free_port()
        self.pid = 0
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(mode=0o700)
        self.output.mkdir(mode=0o700)
        self.mounted = bool(disk_bytes) and _mount(self.folder, disk_bytes)

    # --- Start and end. ---

    def start(self) -> float:
        """Start it; return the seconds until it has answered."""
        began = time.monotonic()
        serve = ["serve", "--host", HOST, "--port", str(self.port), *self.files, *self._options]
        with self.stdout.open("ab") as out, self.stderr.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pwserver", *serve],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                cwd=self.output,
                env=environment(PROJECT),
                start_new_session=True,
            )
        self.pid = self._process.pid
        if not until(lambda: self.ended is not None or self.answers(), START_TIMEOUT_S):
            raise BenchmarkFailed("the service did not listen in time")
        if self.ended is not None:
            raise BenchmarkFailed(f"the service did not start: {self.last_words()}")
        return time.monotonic() - began

    def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed("the service did not stop when it was told to") from None

    def kill_everything(self) -> None:
        """End all of its processes by force, whatever state they are in."""
        if self._process is None:
            return
        self.signal_all(signal.SIGKILL)
        self._process.wait()
        if not until(lambda: not self.group(), GROUP_TIMEOUT_S):
            raise BenchmarkFailed("a process of the service does not end")

    def signal_all(self, number: int) -> None:
        """Send a signal to all of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def answers(self, timeout_s: float = 1.0) -> bool:
        """Tell whether it answers a guest that comes now."""
        try:
            with socket.create_connection((HOST, self.port), timeout_s) as connection:
                connection.sendall(PING)
                return connection.recv(len(ALIVE)) == ALIVE
        except OSError:
            return False

    # --- Processes. ---

    def group(self) -> list[int]:
        """Return all of its processes that are alive."""
        return [int(each) for each in os.listdir("/proc") if each.isdecimal() and self._has(each)]

    def _has(self, pid: str) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        state, _, group = stat.rpartition(")")[2].split()[:3]
        return int(group) == self.pid and state != "Z"

    def children(self) -> dict[str, int]:
        """Return its processes but for the listener, by name."""
        found = {}
        for pid in self.group():
            if pid == self.pid:
                continue
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if title := _TITLE.match(command):
                    found[title[1].decode()] = pid
        return found

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


def age_s(pid: int) -> float:
    """Return the seconds since a process was started; 0 for one that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Ask again and again whether something is so; return whether it was, in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _mount(folder: Path, size_bytes: int) -> bool:
    """Mount a small file system on a folder; return whether that was allowed."""
    options = f"size={size_bytes},mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
