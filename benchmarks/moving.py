"""How long it takes to move many passwords in and out.

    python benchmarks/moving.py

Makes an export of Chrome with logins in no order, and runs the commands on it as a user does, their
start included: `import` into an empty book, the same again, which finds all of it there, and
`export`. All three go through a service of their own with a token, and then by the files of another
book. The run fails if a command does, or does not count every login.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it may be started by its path

from benchmarks.client.wire import BenchmarkFailed
from benchmarks.results.options import add_directory, described, positive
from benchmarks.results.progress import failures_said, messages
from benchmarks.results.sheets import Sheet
from benchmarks.results.terminal import print_sheet
from benchmarks.servers.servers import PROJECT, environment
from benchmarks.servers.service import COMMAND, Service

LOGINS = 100_000
TIMEOUT_S = 600.0


def run(options: argparse.Namespace) -> list[tuple[str, float, float]]:
    """Return what was done, and how long it took through the service and by the files."""
    with tempfile.TemporaryDirectory(prefix="pwserver-moving-", dir=options.directory) as folder:
        home = Path(folder).resolve()
        file = home / "logins.csv"
        _make_export(file, options.logins)
        with Service("pwserver", home) as service:
            messages.print(f"{service.banner}; {options.logins:,} logins")
            access = service.register("moving")
            token = home / "token"
            token.touch(0o600)
            token.write_text(access.token)
            at = {
                "PWSERVER_URL": f"pwserver://{service.address.host}:{service.address.port}",
                "PWSERVER_TOKEN_FILE": str(token),
            }
            served = _times(file, home / "served.jsonl", options.logins, [], at)
        files = ["--database", str(home / "other.db")]
        by_files = _times(file, home / "files.jsonl", options.logins, files, {})
        names = ("import into an empty book", "import again", "export")
        return [*zip(names, served, by_files, strict=True)]


def _make_export(file: Path, logins: int) -> None:
    """Write an export of Chrome."""
    numbers = [*range(logins)]
    random.Random(1).shuffle(numbers)
    with open(file, "w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["name", "url", "username", "password", "note"])
        for number in numbers:
            site = f"www.site-{number % 997}.example"
            url = f"https://{site}/login"
            rows.writerow([site, url, f"user{number}@mail.example", f"Pa55-{number:013x}", ""])


def _times(
    file: Path, out: Path, logins: int, flags: Sequence[str], variables: Mapping[str, str]
) -> list[float]:
    """Run the three commands; return how many seconds each took."""
    return [
        _timed(["import", str(file), *flags], variables, "saved", logins),
        _timed(["import", str(file), *flags], variables, "already_there", logins),
        _timed(["export", str(out), "--yes", *flags], variables, "users", logins),
    ]


def _timed(command: Sequence[str], variables: Mapping[str, str], count: str, logins: int) -> float:
    """Run a command, check what it counts, and return how many seconds it took."""
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, *COMMAND, *command, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**environment(PROJECT), **variables},
        timeout=TIMEOUT_S,
        check=False,
    )
    took_s = time.perf_counter() - began
    if ran.returncode or json.loads(ran.stdout)[count] != logins:
        raise BenchmarkFailed(f"pwserver {command[0]}: {ran.stdout[:1000]}{ran.stderr.strip()}")
    return took_s


def main() -> None:
    """Measure once, and print the times."""
    parser = described(__doc__)
    parser.add_argument(
        "--logins", type=positive, default=LOGINS, help="in the file (default: %(default)s)"
    )
    add_directory(parser)
    options = parser.parse_args()
    with failures_said():
        found = run(options)
    rows = [[what, f"{served:.1f}", f"{files:.1f}"] for what, served, files in found]
    title = f"{options.logins:,} logins, in seconds"
    print_sheet(Sheet(title, ["what", "through the service", "by the files"], rows))


if __name__ == "__main__":
    main()
