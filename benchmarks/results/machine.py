"""Describes what figures depend on: the machine, and the versions of what runs on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw
import psutil

from benchmarks.servers.postgres_cluster import find_programs
from benchmarks.servers.servers import PROJECT

PACKAGES = ("fastapi", "uvicorn", "flask", "gunicorn", "psycopg")


def machine(directory: Path) -> dict[str, object]:
    """Describe the machine of a load test: cores, kernel, Python and the file system written to."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": filesystem(directory),
    }


def contest(directory: Path) -> dict[str, str]:
    """Describe the machine and the programs of a comparison, by what people call them."""
    programs = find_programs()
    return {
        "processor": f"{len(os.sched_getaffinity(0))} cores of {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "kernel": platform.release(),
        "file system": filesystem(directory),
        "commit": _printed(["git", "-C", str(PROJECT), "describe", "--always", "--dirty"], "(.+)"),
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "Redis": _printed(["redis-server", "--version"], r"v=(\S+)"),
        "PostgreSQL": _printed([f"{programs}/postgres", "--version"], r"(\d\S+)"),
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


def _printed(command: list[str], pattern: str) -> str:
    """Return what is of interest in what a program prints, or nothing where it cannot be run."""
    if not shutil.which(command[0]):
        return ""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, ran.stdout)
    return found[1] if found else ""


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
