"""A service under strace, and its administrator: what a scenario needs.

strace follows a shell, and whatever that starts: the service and, later, another one, and commands
of the administrator. So there is one record of all of them, in one order, and what the shell says
(`mark`) stands in it where it was said. That is why it is no `Service` of tests/support, which
starts the service itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from tests.support.harness import PATIENCE_S, READY
from tests.support.processes import end_session, launch
from tests.support.shell import TREE_ENVIRONMENT
from tests.trials.powerloss.calls import OPTIONS
from tests.trials.powerloss.ledger import Command, Keys, Ledger
from tests.trials.powerloss.record import MARK, Record
from tests.trials.report import TrialFailed

DATABASE = "user_data.db"
STEM = "user_data"
"""What the names of all files of the book begin with."""

SERVICE = "pwserver"
UNSYNCED = "tests.trials.unsynced"
"""The modules that can be run as the service: as it is, and without a sync."""

TRACED = (
    *("?open", "openat", "?creat", "write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("truncate", "ftruncate", "fallocate", "copy_file_range", "sendfile"),
    *("fsync", "fdatasync", "sync_file_range", "msync"),
    *("?unlink", "unlinkat", "?rename", "renameat", "renameat2", "?link", "linkat", "symlinkat"),
    *("sendto", "recvfrom"),
)
"""What changes files, and what clients are heard and answered by; `?` is not on every machine."""

POLL_S = 0.01
PAUSE_S = 0.05
"""Between the things that go on while a command of the administrator is at work."""


class TracedService:
    """A folder with a book, a shell that is recorded, and who asks it for what."""

    def __init__(self, folder: Path, token: str, program: str = SERVICE) -> None:
        self.folder = folder / "book"
        self.token = token
        self.ledger = Ledger()
        self._said = folder / "service.log"
        self._trace = folder / "trace"
        self._program = program
        self._record = Record.begin(self.folder, STEM)
        self._service = 0
        traced = f"trace={','.join(TRACED)}"
        command = ["strace", *OPTIONS, "-e", traced, "-o", str(self._trace), "sh"]
        try:
            self._shell = launch(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self.folder,
                env=TREE_ENVIRONMENT,
                bufsize=0,
            )
        except FileNotFoundError:
            raise TrialFailed("strace is not installed; run: apt-get install strace") from None
        self._tell("exec 2>/dev/null")  # the shell says of what is killed that it was

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._service:
            with contextlib.suppress(ProcessLookupError):
                self._signal(signal.SIGKILL)
        self._input.close()
        try:
            self._shell.wait(PATIENCE_S)
        finally:
            end_session(self._shell)
            self._output.close()

    def record(self) -> Record:
        """Return what was recorded, once it was left; raise where it is not all of it."""
        self._record.read(self._trace)
        self._record.check()
        return self._record

    @property
    def log(self) -> bytes:
        """The database's write-ahead log, as it is now; nothing where there is none."""
        path = self.folder / f"{DATABASE}-wal"
        return path.read_bytes() if path.exists() else b""

    # --- What the shell is told. ---

    @property
    def _input(self) -> IO[bytes]:
        assert self._shell.stdin is not None
        return self._shell.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self._shell.stdout is not None
        return self._shell.stdout

    def mark(self, text: str) -> None:
        """Have a mark in the record, behind all that was done so far."""
        self._tell(f"echo {shlex.quote(MARK.decode() + text)}")
        self._hear()

    def _tell(self, line: str) -> None:
        self._input.write(line.encode() + b"\n")

    def _hear(self, meanwhile: Callable[[], object] | None = None) -> str:
        """Return what the shell says next; until then, do something again and again."""
        deadline_s = time.monotonic() + PATIENCE_S
        said = b""
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([self._output], [], [], PAUSE_S)
            if readable:
                if not (data := self._output.read(4096)):
                    raise TrialFailed("strace ended early; may this user trace processes?")
                said += data
            elif meanwhile is not None:
                meanwhile()
            if time.monotonic() > deadline_s:
                raise TrialFailed(f"the recorded service took too long{self._last_words()}")
        return said.decode().strip()

    # --- The service. ---

    def serve(self) -> int:
        """Start the service; return the port at which it listens."""
        self._said.write_bytes(b"")
        log = shlex.quote(str(self._said))
        self._tell(f"setsid {self._command(self._program, 'serve', '--port', '0')} >{log} 2>&1 &")
        self._tell("echo $!")
        self._service = int(self._hear())
        deadline_s = time.monotonic() + PATIENCE_S
        while not (found := READY.search(self._said.read_text(errors="replace"))):
            if time.monotonic() > deadline_s:
                raise TrialFailed(f"the recorded service did not listen{self._last_words()}")
            time.sleep(POLL_S)
        return int(found[2])

    def stop(self) -> None:
        """Stop the service, and wait for that."""
        self._signal(signal.SIGTERM)
        self._wait("0")

    def kill(self) -> None:
        """Kill every process of the service at once."""
        self._signal(signal.SIGKILL)
        self._wait("137")

    def _signal(self, number: signal.Signals) -> None:
        if number is signal.SIGKILL:
            os.killpg(self._service, number)
        else:
            os.kill(self._service, number)

    def _wait(self, code: str) -> None:
        self._tell(f"wait {self._service}; echo $?")
        self._service = 0
        if (said := self._hear()) != code:
            raise TrialFailed(f"the recorded service ended with {said}{self._last_words()}")

    def administer(
        self,
        *words: str,
        holds: Callable[[Keys], bool],
        meanwhile: Callable[[], object] | None = None,
        may_refuse: bool = False,
    ) -> bool:
        """Run a command of the administrator, which promises something; return whether it was done.

        Meanwhile something goes on, again and again.
        """
        said = self.folder.parent / "command.log"
        number = len(self.ledger.commands)
        self.ledger.commands.append(Command(words, holds))
        done = f"echo {shlex.quote(f'{MARK.decode()}command {number} ended with')} $?"
        self._tell(f"{self._command(SERVICE, *words)} >{shlex.quote(str(said))} 2>&1; {done}")
        is_done = self._hear(meanwhile).endswith(" 0")
        if not is_done and not may_refuse:
            raise TrialFailed(f"pwserver {' '.join(words)}: {said.read_text().strip()}")
        return is_done

    def _command(self, program: str, *words: str) -> str:
        database = str(self.folder / DATABASE)
        return shlex.join([sys.executable, "-m", program, *words, "--database", database])

    def _last_words(self) -> str:
        words = self._said.read_text(errors="replace").strip().splitlines()[-5:]
        return "".join(f"\n    {word}" for word in words)
