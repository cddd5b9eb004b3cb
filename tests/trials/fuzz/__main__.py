"""Have inputs made up for the service's framing, or for its commands, by what they reach in it.

    python -m tests.trials.fuzz framing --minutes 60
    python -m tests.trials.fuzz commands --minutes 60

libFuzzer, by way of atheris (`pip install -e '.[fuzz]'`), changes inputs that are known and keeps
those that reach something new. It begins with the corpus in `corpus` and with what is
hostile from the start (`seeds.py`). What is checked of each input is said in
`framing.py` and `commands.py`.

In the end, and where it is stopped before (control-C), the corpus is made again of what was there
and what was found: the smallest inputs that reach as much, for commands without regard to how often
they do, so that the corpus stays small. `tests/trials/test_corpus.py` replays it.

An input that breaks a promise ends the run with exit code 1, and is kept in a file of its own; to
see it again: `python -m tests.trials.fuzz commands --again FILE`.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results.options import above_zero
from benchmarks.results.progress import messages
from tests.trials import report
from tests.trials.fuzz import corpora
from tests.trials.fuzz.corpora import CORPUS, TARGETS
from tests.trials.fuzz.seeds import seeds
from tests.trials.fuzz.words import dictionary
from tests.trials.report import TrialFailed, verdict
from workers.serving.commands import TABLE

PROJECT = Path(__file__).resolve().parents[3]
MEMORY = Path("/dev/shm")
INPUT_BYTES_MAX = {"framing": 512, "commands": 2048}
"""Some times what a message may have there: the service's own limits would make inputs slow."""

KEPT_BY = {"framing": "-use_counters=1", "commands": "-use_counters=0"}
"""Whether an input is kept that runs through a place more often than others do."""

LIMITS = ("-timeout=30", "-rss_limit_mb=1024")
"""An input that takes longer than so many seconds, or more than so much memory, is a finding."""

REPORT_S = 30.0
SAID_LINES = 60
STOPPED = (72, 130)  # the exit codes of libFuzzer and of Python when they are interrupted
_STATUS = re.compile(
    r"#(?P<done>\d+)\s+(?P<what>[A-Za-z]+)\s+cov: (?P<edges>\d+) ft: (?P<features>\d+)"
    r"(?: corp: (?P<kept>\S+))?.*? exec/s: (?P<speed>\d+) rss: (?P<memory>\d+)Mb"
)


class Run:
    """One target, in a folder that is gone afterwards."""

    def __init__(self, target: str, folder: Path) -> None:
        self._target = target
        self._folder = folder
        self._found = self._new("found")
        self._seeds = self._new("seeds")
        for number, seed in enumerate(seeds()):
            (self._seeds / str(number)).write_bytes(seed)
        self._words = folder / "words"
        self._words.write_text(dictionary())
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def _new(self, name: str) -> Path:
        made = self._folder / name
        made.mkdir()
        return made

    def stop(self, *_: object) -> None:
        """End the fuzzing, not the run: what was found is kept."""
        self._stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def fuzz(self, minutes: float) -> str:
        """Make inputs up for so long; return the figures."""
        status, reported_s = "nothing was done", time.monotonic()
        begun_s = reported_s
        for line in self._libfuzzer(
            *(f"-max_total_time={max(1, int(minutes * 60))}", f"-dict={self._words}"),
            *(f"-artifact_prefix={Path.cwd()}/fuzz-{self._target}-", "-reload=0"),
            *(str(each) for each in (self._found, CORPUS / self._target, self._seeds)),
        ):
            if found := _STATUS.search(line):
                status = figures(found, time.monotonic() - begun_s)
                if time.monotonic() - reported_s > REPORT_S:
                    reported_s = time.monotonic()
                    messages.print(status)
        return status

    def minimise(self) -> None:
        """Replace the corpus by the smallest inputs that reach as much."""
        merged, known = self._new("merged"), (CORPUS / self._target, self._found, self._seeds)
        quietly = ("-merge=1", KEPT_BY[self._target], f"-artifact_prefix={self._folder}/")
        for _ in self._libfuzzer(*quietly, *map(str, (merged, *known))):
            pass
        if not any(merged.iterdir()):
            raise TrialFailed("the corpus could not be minimised; it is as it was.")
        corpora.replace(self._target, merged)

    def _libfuzzer(self, *arguments: str) -> Iterator[str]:
        """Run libFuzzer and yield what it says; raise where an input broke a promise."""
        limits = (f"-max_len={INPUT_BYTES_MAX[self._target]}", *LIMITS)
        command = [
            sys.executable,
            "-m",
            "tests.trials.fuzz.target",
            self._target,
            *limits,
            *arguments,
        ]
        home = {"PYTHONPATH": str(PROJECT), "TMPDIR": str(self._folder)}
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | home,
            start_new_session=True,  # control-C is for this process, which tells it
        ) as self._process:
            said: list[str] = []
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if not _STATUS.search(line):
                    said = [*said[-SAID_LINES:], line]
                yield line
        code, self._process = self._process.returncode, None
        if code and not (self._stopped and code in STOPPED):
            raise TrialFailed(f"libFuzzer ended with exit code {code}. It said:\n{''.join(said)}")


def figures(found: re.Match[str], seconds: float) -> str:
    """Return a line of libFuzzer in words."""
    done = int(found["done"])
    return (
        f"{seconds / 60:.1f} minutes: {done:,} inputs ({done / max(seconds, 0.1):,.0f}/s), "
        f"{int(found['edges']):,} edges, {int(found['features']):,} features, "
        f"corpus {found['kept']}, {found['memory']} MB"
    )


def run(target: str, minutes: float, folder: Path) -> None:
    """Fuzz, keep what was found, and say what the corpus reaches."""
    going = Run(target, folder)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, going.stop)
    try:
        print(f"{target}: {going.fuzz(minutes)}")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        going.minimise()
    kept = corpora.inputs(target)
    print(f"{len(kept)} inputs are kept, {sum(each.stat().st_size for each in kept):,} bytes")
    if target == "commands":
        reached = corpora.replay(target, folder)
        for command in TABLE:
            words = sorted(word for of, word in reached if of is command)
            print(f"{command.message.__struct_config__.tag} ({command.does}): {', '.join(words)}")


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = report.command_line("fuzz", __doc__)
    add = parser.add_argument
    add("target", choices=TARGETS)
    add("--minutes", type=above_zero, default=5.0, help="how long to fuzz (default: %(default)s)")
    add("--again", type=Path, metavar="FILE", help="check this one input, and do nothing else")
    add(
        "--directory",
        type=Path,
        default=MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir()),
        help="where the temporary database goes: in memory, best (default: %(default)s)",
    )
    return parser


def main() -> None:
    """Fuzz, or say why not."""
    options = command_line().parse_args()
    with (
        verdict(),
        tempfile.TemporaryDirectory(prefix="pwserver-fuzz-", dir=options.directory) as folder,
    ):
        if options.again is not None:
            with corpora.checking(options.target, Path(folder)) as check:
                check(options.again.read_bytes())
        else:
            run(options.target, options.minutes, Path(folder))


if __name__ == "__main__":
    main()
