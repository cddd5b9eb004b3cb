"""Faults from outside: system calls that fail or dawdle, disks, rights and descriptors."""

import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support import needs
from tests.support.harness import PATIENCE_S, Peer
from tests.support.processes import launched

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def system_calls(pid: int, calls: str, outcome: str, path: Path | None = None) -> Iterator[None]:
    """Let system calls of a process, or those of them on one file, have an outcome of our choice.

    The outcome is as strace has it: `error=EIO`, `delay_enter=2s`, `error=ENOSPC:when=3+`.
    """
    needs.tool("strace")
    command = ["strace", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{outcome}"]
    command += ["-P", str(path)] if path else []
    with launched(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        said = b""
        while b"attached" not in said:
            said = tracer.stderr.readline()
            if b"Operation not permitted" in said:
                needs.lacks("the right to trace a process")
            assert said, "strace ended"
        try:
            yield
        finally:
            tracer.terminate()
            tracer.communicate(timeout=PATIENCE_S)


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Mount something on a folder; skip the test where there is no right to."""
    command = ["mount", *arguments, str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        needs.lacks("the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def obey_modes() -> None:
    """Be root like any other user, for whom the modes of files count; in the program run next."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def open_files(pid: int) -> int:
    """Return how many files and sockets a process has open; to who may not see that, always 0."""
    return 0 if needs.blind() else len(os.listdir(f"/proc/{pid}/fd"))


def memory_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def processor_seconds(pids: list[int]) -> float:
    """Return the processor time that some processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def is_silent(peer: Peer, seconds: float = 0.3) -> bool:
    """Tell whether nothing arrives on a connection for some time, neither a reply nor the end."""
    peer.socket.settimeout(seconds)
    try:
        peer.socket.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        peer.socket.settimeout(PATIENCE_S)
    return False
