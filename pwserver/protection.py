"""Keeps a process's memory, in which keys and passwords are, away from others and from the swap.

It imports little, because a process calls `protect_memory` before it loads anything else.
"""

import ctypes
import resource

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14


def protect_memory() -> None:
    """Keep this process's memory out of core files and away from processes of the same user.

    If a process is not dumpable, no debugger may attach to it, and only root sees its memory,
    environment and open files in `/proc` (prctl(2), proc(5)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def lock_memory() -> bool:
    """Keep all memory of this process, now and later, out of the swap; return whether it is.

    It is left unlocked under a limit (`ulimit -l`), because with locked memory a process that comes
    to the limit can allocate no more. Only pages that are used are locked (mlockall(2)).
    """
    if not _may_lock():
        return False
    flags = _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT
    return bool(ctypes.CDLL(None).mlockall(flags) == 0)


def _may_lock() -> bool:
    """Tell whether this process may lock as much memory as it likes."""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return True
    try:
        with open("/proc/self/status", "rb") as file:
            status = dict(line.split(b":", 1) for line in file if b":" in line)
        return bool(int(status[b"CapEff"], 16) >> _CAP_IPC_LOCK & 1)
    except (OSError, KeyError, ValueError):
        return False
