"""Describes what the figures of a comparison depend on: the machine, and what runs on it."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

from benchmarks.results import report
from benchmarks.servers.postgres_cluster import find_programs
from benchmarks.servers.servers import PROJECT

PACKAGES = ("fastapi", "uvicorn", "flask", "gunicorn", "psycopg")


def machine(folder: Path) -> dict[str, str]:
    """Return the machine and the versions, by what people call them; `folder` is on its disk."""
    here = report.machine(folder)
    return {
        "processor": f"{here['cores']} cores of {here['processor']}",
        "memory": _memory(),
        "kernel": platform.release(),
        "file system": str(here["filesystem"]),
        "commit": _printed(["git", "-C", str(PROJECT), "describe", "--always", "--dirty"], "(.+)"),
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "Redis": _printed(["redis-server", "--version"], r"v=(\S+)"),
        "PostgreSQL": _postgres(),
        **{name: _installed(name) for name in PACKAGES},
    }


def _memory() -> str:
    kib = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return f"{int(kib[1]) / 1024**2:.0f} GiB" if kib else ""


def _postgres() -> str:
    programs = find_programs()
    return _printed([str(programs / "postgres"), "--version"], r"(\d\S+)") if programs else ""


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
