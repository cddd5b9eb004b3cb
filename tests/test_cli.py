"""The command line: starting the service, usage, and what a newcomer tries first."""

import json
import re
from pathlib import Path

import pytest

from pwserver import cli
from tests.harness import Service, eventually
from tests.shell import Shell, guest_shell_at

COMMANDS = [name for name in cli.app if not name.startswith("-")]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in an empty folder."""
    return Shell(tmp_path)


def test_save_count_and_ping(service: Service, tmp_path: Path) -> None:
    """The commands do what they say and print plain words into a pipe."""
    shell = Shell(tmp_path)
    at = ("--port", str(service.port))
    assert shell.run("ping", *at).out == "Alive!\n"
    saved = shell.run("save", *at, stdin="abc123\n")
    assert (saved.out, saved.code) == ("Password saved!\n", 0)
    assert shell.run("count", *at).out == "1\n"


def test_demo_shows_the_seed_messages(service: Service, tmp_path: Path) -> None:
    """The example prints each message sent and received."""
    shown = guest_shell_at(service, tmp_path).run("demo")
    assert shown.code == 0
    lines = [line.split(maxsplit=1) for line in shown.out.splitlines()]
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
    """One on the command line, where everybody could read it, is refused and not repeated."""
    refused = guest_shell_at(service, tmp_path).run("save", "abc123", stdin="abc123")
    assert refused.code == 2
    assert "a password is never one" in refused.err
    assert "abc123" not in refused.err
    with service.peer() as peer:
        assert peer.count() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "70000"],
        ["serve", "--workers", "0"],
        ["serve", "--list-users", "some"],
        ["serve", "--database", "postgres://host/x"],
        ["serve", "--no-such-setting", "1"],
        ["no-such-command"],
        ["serve", "--config", "missing.toml"],
        ["count", "--port", "abc"],
        ["ping", "--port", "-1"],
        ["get"],
        ["get", "name", "--no-json"],
        ["get", "name", "--version", "x"],
        ["list", "--limit", "0"],
        ["generate", "--password", "abc123"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_sentence_and_exit_2(arguments: list[str], shell: Shell) -> None:
    """Nothing is started, nothing made, and the sentence says what is wrong."""
    result = shell.run(*arguments)
    assert (result.code, result.out) == (2, ""), result
    assert result.err.startswith("pwserver: ")
    assert result.err.count("\n") == 1, result.err
    assert list(shell.folder.iterdir()) == []


def test_setup_makes_key_and_database_once(shell: Shell) -> None:
    """Setup says what it made; a second one changes nothing and says so."""
    first = shell.run("setup")
    assert first.code == 0
    assert "user_data.key" in first.out
    before = {file.name: file.read_bytes() for file in shell.folder.iterdir()}
    assert set(before) == {"user_data.db", "user_data.key"}
    second = shell.run("setup")
    assert "in order" in second.out
    assert {file.name: file.read_bytes() for file in shell.folder.iterdir()} == before


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


def test_help_names_every_command(shell: Shell) -> None:
    """A newcomer finds the commands in the order in which they are wanted, serving first."""
    shown = shell.run("--help").out
    assert re.findall(r"^│ (\w+) +[A-Z]", shown, re.M) == COMMANDS
    assert COMMANDS[:4] == ["serve", "setup", "save", "get"]
    assert shell.run().out == shown, "and without any command the same"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_flag_is_explained(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--help` has a sentence for each."""
    monkeypatch.setenv("COLUMNS", "300")
    assert cli.run([name, "--help"]) == 0
    usage, _, does, _, *panels = capsys.readouterr().out.splitlines()
    assert usage.startswith(f"Usage: pwserver {name}")
    assert re.match(r"[A-Z].*\.", does)
    entries = [line.strip("│* ") for line in panels if line.startswith("│")]
    assert any(entry.startswith("--config ") for entry in entries)
    for entry in entries:
        assert re.match(r"\S+( [A-Z]+(\.\.\.)?)?  +[A-Z].*\.", entry), entry
