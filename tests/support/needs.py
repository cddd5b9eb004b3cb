"""What some tests need that not every user or machine has: without it they are skipped, and say so.

A test that needs root is marked `@pytest.mark.root("to do what")`: an ordinary user skips it. One
that an ordinary user can run, but in which root sees more, is marked `@pytest.mark.root` without a
reason. `pytest -m root` runs these alone. What cannot be told beforehand is found by trying:
`lacks` skips the running test then. An ordinary user may not look into the service's processes:
they are not dumpable, so that the kernel shows their open files and memory to root alone (proc(5)).
"""

import os
import shutil
import subprocess
from typing import NoReturn

import pytest

from tests.support.processes import is_shown

_running: list[pytest.Item] = []


def begin(item: pytest.Item) -> None:
    """Note which test is run, and skip it where it needs root and this is another user."""
    _running[:] = [item]
    for mark in item.iter_markers("root"):
        if mark.args and os.geteuid():
            pytest.skip(f"needs root {mark.args[0]}")


def lacks(what: str) -> NoReturn:
    """Skip the running test, because root lacks something here.

    An ordinary user comes here only where a mark was forgotten, or in a trial, which leaves it out.
    """
    if os.geteuid() and _running:
        pytest.fail(f"{_running[0].name} needs {what}: mark it with pytest.mark.root", False)
    pytest.skip(f"needs {what}")


def blind() -> bool:
    """Tell whether the running test cannot see what root would see; it must be marked for root."""
    if not os.geteuid():
        return False
    return _running[0].get_closest_marker("root") is not None or lacks("to see more")


def tool(*names: str) -> None:
    """Skip the running test where one of these programs is not installed."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}, which is not installed")


def sight_of(process: "subprocess.Popen[bytes]") -> None:
    """Skip the running test where /proc does not show a process that has not ended."""
    if process.poll() is None and not is_shown(process.pid) and process.poll() is None:
        pytest.skip("needs a /proc that shows the service's processes (mounted without hidepid)")
