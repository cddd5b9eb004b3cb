"""How long `pwserver move` takes: a book from a file into PostgreSQL, and back into another file.

    python -m benchmarks.move

Makes a book with a million named users, starts a PostgreSQL server with its defaults, and runs the
command as a user does, its start included. The run fails if a command does, or if the two moves
did not have the same rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

import psycopg

from benchmarks.client.wire import BenchmarkFailed
from benchmarks.fill import fill
from benchmarks.results.options import add_directory, described, positive
from benchmarks.results.progress import failures_said, messages
from benchmarks.results.sheets import Sheet
from benchmarks.results.terminal import print_sheet
from benchmarks.servers.contenders import Postgres
from benchmarks.servers.servers import PROJECT, environment
from benchmarks.servers.service import COMMAND

APPLICATION = "moving"
TIMEOUT_S = 1800.0


def run(options: argparse.Namespace) -> list[tuple[str, float]]:
    """Return what was moved where, and how many seconds it took."""
    with tempfile.TemporaryDirectory(prefix="pwserver-move-", dir=options.directory) as folder:
        home = Path(folder).resolve()
        home.chmod(0o755)  # PostgreSQL runs as another user, if root starts it
        file, back = home / "user_data.db", home / "back.db"
        _run("app", "add", APPLICATION, "--may", "save", "--database", str(file))
        fill(file, file.with_suffix(".key"), APPLICATION, options.users)
        (home / "server").mkdir()
        with Postgres(home / "server", 0) as server:
            messages.print(f"{server.banner}; {options.users:,} users")
            place = f"postgresql://postgres@{server.address.host}:{server.address.port}"
            with psycopg.connect(f"{place}/postgres", autocommit=True) as connection:
                connection.execute("CREATE DATABASE book")
            url = f"{place}/book"
            there, there_s = _moved(str(file), url, options.users)
            again, again_s = _moved(url, str(back), options.users)
        if there != again:
            raise BenchmarkFailed(f"the rows differ: {there} and {again}")
        return [("from a file into PostgreSQL", there_s), ("from PostgreSQL into a file", again_s)]


def _moved(source: str, destination: str, users: int) -> tuple[str, float]:
    """Move a book; return the digest of its rows, and how many seconds it took."""
    began = time.perf_counter()
    found = json.loads(_run("move", source, destination, "--json"))
    took_s = time.perf_counter() - began
    if found["rows"]["user"] != users:
        raise BenchmarkFailed(f"it has moved {found['rows']['user']} users of {users}")
    return found["sha256"], took_s


def _run(*command: str) -> str:
    ran = subprocess.run(
        [sys.executable, *COMMAND, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**environment(PROJECT), "PSYCOPG_IMPL": "binary"},
        timeout=TIMEOUT_S,
        check=False,
    )
    if ran.returncode:
        raise BenchmarkFailed(f"pwserver {command[0]}: {ran.stderr.strip()}")
    return ran.stdout


def main() -> None:
    """Measure once, and print the times."""
    parser = described(__doc__)
    parser.add_argument(
        "--users", type=positive, default=1_000_000, help="in the book (default: %(default)s)"
    )
    add_directory(parser)
    options = parser.parse_args()
    with failures_said():
        found = run(options)
    rows = [[what, f"{took_s:.1f}"] for what, took_s in found]
    print_sheet(Sheet(f"{options.users:,} users moved, in seconds", ["what", "seconds"], rows))


if __name__ == "__main__":
    main()
