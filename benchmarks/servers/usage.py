"""What a server costs the machine: processor time, memory and open files of all its processes.

Memory is PSS: a page that several processes share counts in equal parts for each. For a process
whose pages only root may see, as pwserver's, which cannot be dumped, it is RSS for anybody else:
that counts shared pages for each process, so it is too much rather than too little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """What all processes of a server together have taken.

    cpu_s         user and system time, since they were started
    kernel_s      the system time of it
    memory_bytes  PSS at this moment
    descriptors   open files and sockets at this moment
    """

    cpu_s: float
    kernel_s: float
    memory_bytes: int
    descriptors: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_s + other.cpu_s,
            self.kernel_s + other.kernel_s,
            self.memory_bytes + other.memory_bytes,
            self.descriptors + other.descriptors,
        )

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Look at a process and all that descend from it.

        Those that have ended count in the time of the parent that waited for them.
        """
        cpu_s, kernel_s, memory_bytes, descriptors = 0.0, 0.0, 0, 0
        for process in _family(pid):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                times = process.cpu_times()
                cpu_s += times.user + times.children_user
                kernel_s += times.system + times.children_system
                memory_bytes += memory_of(process)
                descriptors += process.num_fds()
        return cls(cpu_s + kernel_s, kernel_s, memory_bytes, descriptors)


def _family(pid: int) -> Iterator[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        yield process
        yield from process.children(recursive=True)


def memory_of(process: psutil.Process) -> int:
    """Return the memory of one process, in bytes."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
