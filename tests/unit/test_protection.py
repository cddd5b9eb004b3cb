"""The memory of a process that has keys is not readable by others, and not in the swap."""

import subprocess
import sys

import pytest

_LIMITED = """
import os, resource
from pwserver.config import Settings
from pwserver.errors import ConfigError
from pwserver.protection import lock_memory, protect_memory
from pwserver.server.supervisor import serve
if not os.geteuid():  # root may lock as much as it likes
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
"""
"""The beginning of a program, in which an ordinary user may lock little memory."""


def printed(program: str) -> list[str]:
    """Run a program; return the words that it prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_memory_is_protected_and_under_a_limit_left_unlocked() -> None:
    """Otherwise the process could allocate no more when it comes to the limit."""
    show = "print(lock_memory()); protect_memory(); print(os.stat('/proc/self/maps').st_uid)"
    assert printed(_LIMITED + show) == ["False", "0"]  # root's, who alone may look into it


@pytest.mark.root("to lock memory")
def test_memory_is_locked_where_that_is_allowed() -> None:
    """Also what is allocated later."""
    locked, kib = printed(
        "from pwserver.protection import lock_memory\n"
        "print(lock_memory())\n"
        "held = bytearray(64 << 20)\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if 'VmLck' in line))"
    )
    assert locked == "True"
    assert int(kib) > 64 << 10


def test_a_service_that_must_lock_its_memory_says_that_it_cannot() -> None:
    """It names the setting, and how the limit is raised."""
    serving = """
try:
    serve(Settings(require_locked_memory=True, port=0, database="/nowhere/user_data.db"))
except ConfigError as error:
    print(error)
"""
    said = " ".join(printed(_LIMITED + serving))
    assert "require_locked_memory is set, and the limit does not allow it" in said
    assert "LimitMEMLOCK=infinity" in said
