"""Describes the machine that figures depend on, and the versions of the programs on it."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw
import psutil

from benchmarks.servers.contenders import find_programs
from benchmarks.servers.servers import PROJECT, output_of, revision

PACKAGES = ("fastapi", "uvicorn", "flask", "gunicorn", "psycopg")


def machine(directory: Path) -> dict[str, str]:
    """Describe the machine, the programs, and the file system that is written to."""
    return {
        "processor": f"{len(os.sched_getaffinity(0))} cores of {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "kernel": platform.release(),
        "file system": filesystem(directory),
        "commit": revision(PROJECT),
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "Redis": _version_in(output_of("redis-server", "--version")),
        "PostgreSQL": _version_in(output_of(f"{find_programs()}/postgres", "--version")),
        **{name: _installed(name) for name in PACKAGES},
    }


def filesystem(directory: Path) -> str:
    """Return the type of the file system that `directory` is on, such as ext4 or tmpfs."""
    place = directory.resolve()
    mounted = [
        each
        for each in reversed(psutil.disk_partitions(all=True))  # the last hides those below it
        if place.is_relative_to(each.mountpoint)
    ]
    return str(max(mounted, key=lambda each: len(each.mountpoint)).fstype)


def _processor() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _version_in(text: str) -> str:
    found = re.search(r"\d+\.\S+", text)
    return found[0] if found else ""


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
