"""Starts processes for tests, each in a session of its own, and lets none outlive the tests.

`launch` starts a program and tells the keeper, a small process that reads a pipe from the tests'
process. When that pipe ends, however the tests ended (a failure, Ctrl-C, a timeout, SIGKILL), the
keeper kills every session that is left. Knows nothing of the programs. `CONTEXT` starts
multiprocessing's processes, which share numbers with a test.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from pwserver.memory import Code, SharedArray
from tests.support.forked import COMMAND, Forked, can_be_forked

_KEEPER = """
import os, signal, sys
left = set()
for line in sys.stdin:
    (left.add if line[0] == "+" else left.discard)(int(line[1:]))
for leader in left:
    try:
        os.killpg(leader, signal.SIGKILL)
    except OSError:
        pass
"""


_ON_ITS_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from pwserver.__main__ import main
main()
"""


class Keeper:
    """The sessions that this process has started and that have not ended yet."""

    def __init__(self) -> None:
        self.left: set[int] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _KEEPER],
            stdin=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def keep(self, leader: int) -> None:
        """Kill the processes of this session at the end of the tests if they still run."""
        self.left.add(leader)
        self._tell(f"+{leader}\n")

    def forget(self, leader: int) -> None:
        """Note that the processes of this session have ended, so its number may be reused."""
        self.left.discard(leader)
        self._tell(f"-{leader}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)

    def end(self) -> None:
        """Make the keeper kill the sessions that are left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@functools.cache
def keeper() -> Keeper:
    """Return the keeper of this process; make it at the first call."""
    return Keeper()


def launch(command: Sequence[str], **popen: Any) -> "subprocess.Popen[Any]":
    """Start a program in a session of its own, to be ended by `end_session` or the keeper."""
    process = subprocess.Popen(command, **{**popen, "start_new_session": True})
    keeper().keep(process.pid)
    return process


def launch_pwserver(
    command: Sequence[str], *, on_terminal: bool = False, **popen: Any
) -> "subprocess.Popen[Any]":
    """Start the `pwserver` command likewise, as a copy of one that has it loaded if possible.

    With `on_terminal`, its standard input is its controlling terminal (for /dev/tty and Ctrl-C).
    """
    if not can_be_forked(command, popen):
        if on_terminal:
            command = [sys.executable, "-c", _ON_ITS_TERMINAL, *command[len(COMMAND) :]]
        return launch(command, **popen)
    process = Forked(command, on_terminal, **{**popen, "start_new_session": True})
    keeper().keep(process.pid)
    return process


@contextlib.contextmanager
def launched(command: Sequence[str], **popen: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Run a program during a `with`, which waits for its end.

    Afterwards kill the processes that are left, and close the program's pipes.
    """
    process = launch(command, **popen)
    try:
        yield process
        process.wait()
    finally:
        end_session(process)
        with process:
            pass


def end_session(process: "subprocess.Popen[Any]") -> list[int]:
    """Kill a program and the processes that it started, if they still run; return their ids."""
    leader = process.pid
    left = session(leader)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):  # also kill those that /proc does not show
        os.killpg(leader, signal.SIGKILL)
    process.wait()
    keeper().forget(leader)
    return left


def session(leader: int) -> list[int]:
    """Return the living processes of a session that /proc shows, orphans too."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def is_shown(pid: int) -> bool:
    """Tell whether /proc shows a process; some are hidden from this user."""
    try:
        own = os.readlink("/proc/self") == str(os.getpid())  # otherwise of another namespace
    except OSError:
        return False
    return own and os.path.exists(f"/proc/{pid}/stat")


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie."""
    if not is_shown(os.getpid()):
        return _exists(pid)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return _exists(pid) and not is_shown(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def age_s(pid: int) -> float:
    """Return the seconds since a process was started; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes have open, and how much memory they have, at a moment.

    Memory is PSS: a page that several processes share counts in equal parts for each. Where the
    kernel shows a process's pages to root alone, as it does of the service's, which cannot be
    dumped, RSS has to do for others than root: it counts shared pages for each process.
    """

    descriptors: int
    memory_bytes: int

    @classmethod
    def of(cls, pids: Iterable[int]) -> "Usage":
        """Look at some processes; raise PermissionError where only root may."""
        descriptors, memory_bytes = 0, 0
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                memory_bytes += _memory_bytes(pid)
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        return cls(descriptors, memory_bytes)


def _memory_bytes(pid: int) -> int:
    try:
        shown, field = Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:"
    except PermissionError:
        shown, field = Path(f"/proc/{pid}/status").read_text(), "VmRSS:"
    return int(shown.partition(field)[2].split()[0]) * 1024


# --- Processes that share numbers. ---

CONTEXT = multiprocessing.get_context("forkserver")


def _shared(code: Code, length: int, descriptor: Any) -> SharedArray:
    return SharedArray(code, length, descriptor.detach())


def _reduced(array: SharedArray) -> tuple[Callable[..., SharedArray], tuple[Any, ...]]:
    return _shared, (array.code, array.length, reduction.DupFd(array.fileno()))


reduction.register(SharedArray, _reduced)
