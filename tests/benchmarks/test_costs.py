"""What the parts cost is measured by programs that build the parts by hand: they still can."""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_the_cost_of_counting_is_measured() -> None:
    """Each shape of load has a figure, also after a worker has got another argument."""
    command = [sys.executable, "-m", "benchmarks.costs.counting", "--rounds", "1"]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"[\d.]+ us a save without counting", done.stdout)) == 3
