"""Skips tests that need what not every user or machine has, and says what is missing.

A test that needs root is marked `@pytest.mark.root("to do what")`; for an ordinary user it is
skipped. A test that an ordinary user can run, but in which root sees more, is marked
`@pytest.mark.root` without a reason. `pytest -m root` runs only these tests. What cannot be known
beforehand, a test tries, and calls `lacks` if it fails. An ordinary user cannot look into the
service's processes: they are not dumpable, so the kernel shows their open files and memory only to
root (proc(5)).
"""

import os
import shutil
import subprocess
from typing import NoReturn

import pytest

from tests.support.processes import is_shown

_running: list[pytest.Item] = []


def begin(item: pytest.Item) -> None:
    """Note which test runs, and skip it if it needs root and this is another user."""
    _running[:] = [item]
    for mark in item.iter_markers("root"):
        if mark.args and os.geteuid():
            pytest.skip(f"needs root {mark.args[0]}")


def lacks(what: str) -> NoReturn:
    """Skip the running test, because root lacks something here.

    For an ordinary user, fail: the test's mark is missing. Outside of a test, as in a trial, skip.
    """
    if os.geteuid() and _running:
        pytest.fail(f"{_running[0].name} needs {what}: mark it with pytest.mark.root", False)
    pytest.skip(f"needs {what}")


def blind() -> bool:
    """Tell whether the running test cannot see what root sees; it must be marked for root."""
    if not os.geteuid():
        return False
    return _running[0].get_closest_marker("root") is not None or lacks("to see more")


def tool(*names: str) -> None:
    """Skip the running test if one of these programs is not installed."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}, which is not installed")


def path_of(name: str) -> str:
    """Return where a program is; skip the running test if it is not installed."""
    tool(name)
    return shutil.which(name) or ""


def sight_of(process: "subprocess.Popen[bytes]") -> None:
    """Skip the running test if /proc does not show a process that is still running."""
    if process.poll() is None and not is_shown(process.pid) and process.poll() is None:
        pytest.skip("needs a /proc that shows the service's processes (mounted without hidepid)")
