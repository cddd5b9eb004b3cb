"""The copies that run commands in these tests are like the new processes that users start."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forked import Forked, can_be_forked
from tests.support.harness import PATIENCE_S, Service, process_title
from tests.support.processes import end_session, launch_pwserver, session
from tests.support.shell import ENVIRONMENT, Ran, Shell

COMMAND = [sys.executable, "-m", "pwserver"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "--json"],
        ["--version"],
        ["config", "--port", "-1"],
        ["save", "--url", "pwserver://127.0.0.1:1"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_a_copy_does_what_a_new_process_does(tmp_path: Path, arguments: list[str]) -> None:
    """With the same folder, variables and input, it says the same and exits with the same code."""
    (tmp_path / "pwserver.toml").write_text('guests = "none"\n')
    variables = {"PWSERVER_WORKERS": "3", "COLUMNS": "60"}
    assert can_be_forked(COMMAND, {"env": ENVIRONMENT | variables})
    ran = subprocess.run(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT | variables,
        input="x\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    new = Ran(ran.returncode, ran.stdout, ran.stderr)
    assert Shell(tmp_path, variables).run(*arguments, stdin="x\n") == new


def test_a_service_that_is_a_copy_is_in_a_session_of_its_own(shared_service: Service) -> None:
    """Its listener leads it, and all its processes have their names."""
    assert isinstance(shared_service.process, Forked)
    assert process_title(shared_service.process.pid) == "pwserver: listener"
    of_session = set(session(shared_service.process.pid))
    assert {shared_service.process.pid, *shared_service.all_children().values()} == of_session


def test_a_signal_is_told_as_for_any_process(tmp_path: Path) -> None:
    """A copy that was killed has a negative exit code, and nobody waits for it in vain."""
    process = launch_pwserver([*COMMAND, "serve", "--port", "0"], cwd=tmp_path)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.kill()
        assert process.wait(PATIENCE_S) == -9
        assert process.poll() == -9
    finally:
        end_session(process)
