"""What the processes of a service take of the machine: open files and memory.

Memory is PSS: a page that several processes share counts in equal parts for each. Where the kernel
shows a process's pages to root alone, as it does of the service's, which cannot be dumped, RSS has
to do for others than root: it counts shared pages for each process, so it says too much.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes have open, and how much memory they have, at a moment."""

    descriptors: int
    memory_bytes: int

    @classmethod
    def of(cls, pids: Iterable[int]) -> Usage:
        """Look at some processes; raise PermissionError where only root may."""
        descriptors, memory_bytes = 0, 0
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                memory_bytes += _memory_bytes(pid)
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        return cls(descriptors, memory_bytes)


def _memory_bytes(pid: int) -> int:
    try:
        shown, field = Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:"
    except PermissionError:
        shown, field = Path(f"/proc/{pid}/status").read_text(), "VmRSS:"
    return int(shown.partition(field)[2].split()[0]) * 1024
