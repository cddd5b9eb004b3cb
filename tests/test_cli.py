"""The command line, run as a user runs it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Service, eventually

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PWSERVER_")}


def pwserver(
    *arguments: str, folder: Path, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pwserver", *arguments],
        cwd=folder,
        input=stdin,
        env={**ENVIRONMENT, **(env or {})},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_save_count_and_ping(service: Service, tmp_path: Path) -> None:
    """The commands do what they say and print plain words into a pipe."""
    at = ("--port", str(service.port))
    assert pwserver("ping", *at, folder=tmp_path).stdout == "Alive!\n"
    saved = pwserver("save", *at, folder=tmp_path, stdin="abc123\n")
    assert (saved.stdout, saved.returncode) == ("Password saved!\n", 0)
    assert pwserver("count", *at, folder=tmp_path).stdout == "1\n"


def test_demo_shows_the_seed_messages(service: Service, tmp_path: Path) -> None:
    """The example prints each message sent and received."""
    shown = pwserver("demo", "--port", str(service.port), folder=tmp_path)
    assert shown.returncode == 0
    lines = [line.split(maxsplit=1) for line in shown.stdout.splitlines()]
    assert [kind for kind, _ in lines] == ["sent:", "received:"] * 3
    messages = [json.loads(text)["message"] for _, text in lines]
    assert messages == [
        "number_of_users",
        "return_number_of_users",
        "save_password",
        "Password saved!",
        "another_message",
        "Invalid message!",
    ]


def test_a_password_is_never_an_argument(service: Service, tmp_path: Path) -> None:
    """A password on the command line is refused: everybody could read it there."""
    result = pwserver("save", "abc123", "--port", str(service.port), folder=tmp_path)
    assert result.returncode == 2
    with service.peer() as peer:
        assert peer.count() == 0


def test_the_prompt_does_not_show_the_password(service: Service, tmp_path: Path) -> None:
    """At a terminal the password is asked for and not echoed."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pwserver", "save", "--port", str(service.port)],
        cwd=tmp_path,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    shown = b""
    while b"Password: " not in shown:
        shown += os.read(parent, 1000)
    os.write(parent, b"abc123\n")
    while b"saved!" not in shown:
        shown += os.read(parent, 1000)
    assert process.wait(20) == 0
    os.close(parent)
    assert b"abc123" not in shown


def test_no_service_is_said_plainly(tmp_path: Path) -> None:
    """Where nobody listens, one sentence and exit code 3."""
    for command in ("ping", "count", "demo"):
        result = pwserver(command, "--port", "1", folder=tmp_path)
        assert result.returncode == 3
        assert result.stderr.startswith("pwserver: 127.0.0.1:1 ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "abc"],
        ["serve", "--port", "70000"],
        ["serve", "--workers", "0"],
        ["serve", "--list-users", "some"],
        ["serve", "--database", "postgres://host/x"],
        ["serve", "--message-timeout-s", "0"],
        ["serve", "--no-such-setting", "1"],
        ["serve", "stray"],
        ["no-such-command"],
        ["serve", "--config", "missing.toml"],
        ["count", "--port", "-1"],
    ],
    ids=" ".join,
)
def test_a_wrong_setting_is_one_sentence_and_exit_2(arguments: list[str], tmp_path: Path) -> None:
    """Nothing is started, nothing made, and the sentence says what is wrong."""
    result = pwserver(*arguments, folder=tmp_path)
    assert result.returncode == 2, result
    assert result.stderr.startswith("pwserver: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_settings_come_from_flag_environment_and_file_in_this_order(tmp_path: Path) -> None:
    """Each source is used, and each overrides the one after it."""
    (tmp_path / "pwserver.toml").write_text('workers = 0\nhost = "localhost"\nport = -3\n')
    result = pwserver("serve", folder=tmp_path)
    assert "port is -3" in result.stderr
    result = pwserver("serve", folder=tmp_path, env={"PWSERVER_PORT": "-4"})
    assert "port is -4" in result.stderr
    result = pwserver("serve", "--port", "-5", folder=tmp_path, env={"PWSERVER_PORT": "-4"})
    assert "port is -5" in result.stderr
    result = pwserver("serve", "--port", "0", folder=tmp_path)
    assert "workers is 0" in result.stderr
    result = pwserver("count", folder=tmp_path)
    assert "port is -3" in result.stderr, "commands that know fewer settings read the file as well"


def test_a_misspelt_key_in_the_file_is_refused(tmp_path: Path) -> None:
    """A setting that does not exist is not silently ignored."""
    (tmp_path / "other.toml").write_text("wrokers = 3\n")
    result = pwserver("serve", "--config", "other.toml", folder=tmp_path)
    assert result.returncode == 2
    assert "wrokers" in result.stderr


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    """A file that is not TOML is one sentence, too."""
    (tmp_path / "pwserver.toml").write_text("workers = = 3\n")
    result = pwserver("serve", folder=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "pwserver.toml" in result.stderr


def test_setup_makes_key_and_database_once(tmp_path: Path) -> None:
    """Setup says what it made; a second one changes nothing and says so."""
    first = pwserver("setup", folder=tmp_path)
    assert first.returncode == 0
    assert "user_data.key" in first.stdout
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {"user_data.db", "user_data.key"}
    second = pwserver("setup", folder=tmp_path)
    assert "in order" in second.stdout
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_serve_takes_its_flags_as_documented(tmp_path: Path) -> None:
    """`pwserver serve --host H --port P --database FILE --workers N` works as written."""
    service = Service(
        tmp_path, "--host", "localhost", "--database", "book.db", "--workers", "3"
    ).wait_until_listening()
    try:
        eventually(lambda: "worker 3" in service.children(), "three workers run")
        assert (tmp_path / "book.db").exists()
        assert (tmp_path / "book.key").exists()
    finally:
        assert service.stop() == 0


def test_help_names_every_command(tmp_path: Path) -> None:
    """A newcomer finds the commands."""
    assert "PWSERVER_LIST_USERS" in pwserver("serve", "--help", folder=tmp_path).stdout
    shown = pwserver("--help", folder=tmp_path).stdout
    for command in ("serve", "setup", "save", "count", "ping", "demo"):
        assert re.search(rf"^\W*{command}\b", shown, re.M), shown
