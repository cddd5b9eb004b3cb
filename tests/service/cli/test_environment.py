"""Commands in a hostile environment: one sentence and an exit code, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import PATIENCE_S
from tests.support.shell import ENVIRONMENT, Shell

COMMAND = [sys.executable, "-m", "pwserver"]


def run(script: str, *arguments: str | bytes, folder: Path, **variables: str) -> tuple[int, str]:
    """Run a command as a line of a shell does; return its exit code and all that it said."""
    ran = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *arguments],
        cwd=folder,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    said = (ran.stdout + ran.stderr).decode()
    assert "Traceback" not in said
    return ran.returncode, said


@pytest.mark.parametrize("name", ["workers", "msgspec", "cyclopts", "typing", "signal"])
def test_nothing_is_imported_from_the_current_folder(tmp_path: Path, name: str) -> None:
    """Whoever wrote a file there would have it run."""
    (tmp_path / f"{name}.py").write_text("raise SystemExit('it was run')\n")
    (tmp_path / "workers").mkdir()
    code, said = run('exec "$@"', "setup", folder=tmp_path)
    assert (code, "it was run" in said) == (0, False), said


def test_output_that_goes_nowhere_is_no_success(tmp_path: Path) -> None:
    """On a full disk, or closed: a token that nobody got is not called given."""
    for end, reason in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        code, said = run(f'exec "$@" {end}', "--version", folder=tmp_path)
        assert (code, said) == (1, f"pwserver: standard output cannot be written to: {reason}.\n")


def test_streams_that_are_closed_are_minded_by_nobody(tmp_path: Path) -> None:
    """No file gets the number of one: a database would be printed into."""
    code, said = run('exec "$@" <&-', "save", "--port", "1", folder=tmp_path)
    assert (code, said) == (2, "pwserver: standard input cannot be read: Bad file descriptor.\n")
    assert run('exec "$@" 2>&-', "nothing", folder=tmp_path) == (2, "")
    assert run('exec "$@" <&- >&- 2>&-', "setup", folder=tmp_path)[1] == ""
    assert (tmp_path / "user_data.db").read_bytes().startswith(b"SQLite format 3\0")


def test_a_folder_that_was_removed_is_said(tmp_path: Path) -> None:
    """What needs no folder works in one; what does says what is missing."""
    gone = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    assert run(gone, "--version", folder=tmp_path)[0] == 0
    assert run(gone, "ping", "--port", "1", folder=tmp_path)[0] == 3
    code, said = run(gone, "setup", folder=tmp_path)
    assert code == 5
    assert said.startswith("pwserver: user_data.db cannot be used: ")


@pytest.mark.parametrize("columns", ["0", "-1", "1", "x", "99999"])
def test_any_size_of_a_terminal_will_do(tmp_path: Path, columns: str) -> None:
    """Also none, and what is no number."""
    code, said = run('exec "$@"', "--help", folder=tmp_path, COLUMNS=columns, LINES=columns)
    assert code == 0
    assert said


def test_names_that_are_no_utf8_are_said(tmp_path: Path) -> None:
    """Where a name is any bytes, as on Linux, and where a terminal knows ASCII alone."""
    for encoding in ("utf-8", "ascii"):
        arguments = ("setup", "--database", b"\xff.db")
        code, said = run('exec "$@"', *arguments, folder=tmp_path, PYTHONIOENCODING=encoding)
        assert code == 5
        assert "not UTF-8" in said
    (tmp_path / "pwserver.toml").write_bytes(b"\xff")
    code, said = run('exec "$@"', "ping", folder=tmp_path)
    assert code == 2
    assert "pwserver.toml is not a TOML file" in said


@pytest.mark.parametrize(
    ("name", "nearest"), [("PROT", "PORT"), ("WROKERS", "WORKERS"), ("TOKENFILE", "TOKEN_FILE")]
)
def test_a_variable_that_is_no_setting_is_refused(tmp_path: Path, name: str, nearest: str) -> None:
    """With the setting that it may have meant."""
    refused = Shell(tmp_path, {f"PWSERVER_{name}": "1"}).run("ping")
    assert refused.code == 2
    assert refused.err == (
        f"pwserver: the environment has PWSERVER_{name}, which is not a setting; "
        f"did you mean PWSERVER_{nearest}?\n"
    )


def test_variables_that_others_set_are_left_alone(tmp_path: Path) -> None:
    """Kubernetes tells every pod of services, whatever their names begin with."""
    names = ("PWSERVER_DB_SERVICE_HOST", "PWSERVER_DB_PORT_5432_TCP_ADDR", "PWSERVER_BIN")
    assert Shell(tmp_path, dict.fromkeys(names, "x")).run("ping", "--port", "1").code == 3


@pytest.mark.parametrize("name", ["PWSERVER_PORT", "PWSERVER_DB_PORT"])
def test_an_address_of_kubernetes_is_no_port(tmp_path: Path, name: str) -> None:
    """Each pod beside a service that is called `pwserver` finds one there."""
    shell = Shell(tmp_path, {name: "tcp://10.96.0.12:12345"})
    assert shell.run("ping", "--url", "pwserver://127.0.0.1:1").code == 3


@pytest.mark.root("to run commands as other users")
def test_a_user_without_home_or_name_is_served(tmp_path: Path) -> None:
    """Containers run programs as any number."""
    script = 'unset HOME USER LOGNAME; exec "$@"'
    tmp_path.chmod(0o777)
    ran = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "--version"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        user=12345,
        group=12345,
        extra_groups=[],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if b"Permission denied" in ran.stderr and not ran.stdout:
        pytest.skip("other users may not run this Python")
    assert (ran.returncode, ran.stderr) == (0, b"")
