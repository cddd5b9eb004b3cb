"""Makes an empty folder of data for PostgreSQL, which refuses to run as root.

Where the run is root's, PostgreSQL is nobody's: not the user `postgres`, to whom other databases of
the machine may belong, since whoever connects to ours is trusted. Knows nothing of how it is run.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

from benchmarks.client.wire import BenchmarkFailed

DEBIAN_PLACE = "/usr/lib/postgresql"
RUNS_AS = "nobody"
INITDB_TIMEOUT_S = 120.0
_OPTIONS = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")


def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: Debian has them apart, one for each version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    there = [path.parent for path in Path(DEBIAN_PLACE).glob("*/bin/initdb")]
    return max(there, key=lambda path: float(path.parent.name), default=None)


def make_cluster(programs: Path, home: Path) -> tuple[Path, list[str]]:
    """Make the folder in `home`; return it, and what is to stand before commands that use it.

    That is nothing, or for root what changes to the user who owns the folder.
    """
    data = home / "data"
    data.mkdir(mode=0o700)
    as_owner = _hand_over(data) if os.geteuid() == 0 else []
    ran = subprocess.run(
        [*as_owner, str(programs / "initdb"), "-D", str(data), *_OPTIONS],
        cwd=data,
        capture_output=True,
        text=True,
        timeout=INITDB_TIMEOUT_S,
        check=False,
    )
    if ran.returncode:
        raise BenchmarkFailed(f"PostgreSQL's initdb failed: {ran.stderr.strip()}")
    return data, as_owner


def _hand_over(data: Path) -> list[str]:
    """Give the folder to its user, and a way there: a run's own folder lets nobody through."""
    owner = pwd.getpwnam(RUNS_AS)
    os.chown(data, owner.pw_uid, owner.pw_gid)
    for folder in (data.parent, data.parent.parent):
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
    return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
