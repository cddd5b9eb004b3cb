"""The command line: starting the service, usage, and what a newcomer tries first."""

import functools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from pwserver import __version__
from pwserver.cli import main
from tests.support.harness import PATIENCE_S, Service, eventually
from tests.support.processes import launched
from tests.support.shell import ENVIRONMENT, Shell, guest_shell_at

COMMANDS = [name for name in main.app if not name.startswith("-")]


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
    assert shell.run("ping", *at, "--json").record == {"alive": True}
    assert shell.run("count", *at, "--json").record == {"number_of_users": 1}


def test_demo_shows_the_basic_contract_and_leaves_nothing(service: Service, tmp_path: Path) -> None:
    """It prints each message sent and received, of a service of its own and into no other book."""
    shell = guest_shell_at(service, tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    shell.variables["TMPDIR"] = str(temporary)
    shown = shell.run("demo")
    assert (shown.code, shown.err) == (0, "")
    assert list(temporary.iterdir()) == []
    with service.peer() as peer:
        assert peer.count() == 0
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """However it is ended while its service runs: no folder, and no process of it stays."""
    shell = Shell(tmp_path, {"TMPDIR": str(tmp_path)})
    with launched(
        [sys.executable, "-m", "pwserver", "demo"],
        cwd=tmp_path,
        env=ENVIRONMENT | shell.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        eventually(lambda: list(tmp_path.glob("*/user_data.key")), "its service was started")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) in (128 + number, 0), "or it was done before"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "70000"],
        ["serve", "--workers", "0"],
        ["serve", "--list-users", "some"],
        ["serve", "--database", "mysql://host/x"],
        ["serve", "--no-such-setting", "1"],
        ["no-such-command"],
        ["serve", "--config", "missing.toml"],
        ["count", "--port", "abc"],
        ["ping", "--port", "-1"],
        ["get"],
        ["get", "name", "--no-json"],
        ["get", "name", "--version", "x"],
        ["restore", "name"],
        ["restore", "name", "--version"],
        ["label", "name", "a", "--clear"],
        ["audit", "show", "--action", "foo"],
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
    assert shell.run("setup", "--json").record == {
        "database": "user_data.db",
        "key_file": "user_data.key",
        "done": [],
    }
    assert {file.name: file.read_bytes() for file in shell.folder.iterdir()} == before


def test_serve_takes_its_flags_as_documented(tmp_path: Path) -> None:
    """`pwserver serve --host H --port P --database FILE --workers N` works as written."""
    with Service(
        tmp_path, "--host", "localhost", "--database", "book.db", "--workers", "3"
    ) as service:
        service.wait_until_listening()
        eventually(lambda: "worker 3" in service.children(), "three workers run")
        assert (tmp_path / "book.db").exists()
        assert (tmp_path / "book.key").exists()
        assert service.stop() == 0


def test_help_names_every_command(shell: Shell) -> None:
    """A newcomer finds the commands in the order in which they are wanted, serving first."""
    shown = shell.run("--help").out
    assert re.findall(r"^│ (\w[\w-]*) +[A-Z]", shown, re.M) == COMMANDS
    assert COMMANDS[:5] == ["serve", "stop", "setup", "save", "get"]
    assert shell.run().out == shown, "and without any command the same"


def every_command(apps: App = main.app, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command."""
    for name in apps:
        if name.startswith("-"):
            continue
        if apps[name].default_command is None:
            yield from every_command(apps[name], *path, name)
        else:
            yield (*path, name)


EVERY_COMMAND = list(every_command())
OF_A_VERSION = {("get",), ("restore",)}


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_no_flag_of_the_program_is_taken_after_a_command(
    command: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`--version` there means a password's, or is refused: nothing is silently not done."""
    monkeypatch.chdir(tmp_path)
    for arguments in (["--version"], ["name", "--version"], ["--version", "--json"]):
        code = main.run([*command, *arguments])
        said = capsys.readouterr()
        assert (code, said.out) == (2, ""), arguments
        assert re.fullmatch("pwserver: .+\n", said.err)
    if command not in OF_A_VERSION:
        assert main.run([*command, "name", "--version", "1"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_version_of_the_program_is_asked_for_before_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Alone, it is printed."""
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main.run(["--version", "extra"]) == 2


WITHOUT_JSON = {
    ("serve",): "it prints what others ask it to list, as the contract has it, until it is stopped",
    ("systemd-unit",): "it prints a file for another program",
    ("completion",): "it prints a file for another program",
    ("top",): "it draws on a terminal, for a person",
}


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_every_command_speaks_json(command: tuple[str, ...]) -> None:
    """What a command prints can be had as JSON, one object a line."""
    arguments = functools.reduce(lambda apps, name: apps[name], command, main.app)
    names = {name for each in arguments.assemble_argument_collection() for name in each.names}
    assert ("--json" in names) != (command in WITHOUT_JSON)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["sav"], "save"),
        (["audt"], "audit"),
        (["app", "ad"], "add"),
        (["list", "--prefx", "a"], "--prefix"),
        (["get", "name", "--shw"], "--show"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else words,
)
def test_a_slip_of_the_finger_is_told_what_it_may_have_meant(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nearest command or flag is named."""
    assert main.run(typed) == 2
    suggested = capsys.readouterr().err.rpartition("Did you mean ")[2].partition("?")[0]
    assert suggested.strip('"') == meant


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_flag_is_explained(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--help` has a sentence for each."""
    monkeypatch.setenv("COLUMNS", "300")
    assert main.run([name, "--help"]) == 0
    usage, _, does, _, *panels = capsys.readouterr().out.splitlines()
    assert usage.startswith(f"Usage: pwserver {name}")
    assert re.match(r"[A-Z].*\.", does)
    entries = [line.strip("│* ") for line in panels if line.startswith("│")]
    assert any(entry.startswith("--config ") for entry in entries)
    for entry in entries:
        assert re.match(r"\S+( --\w+)?( [A-Z]+(\.\.\.)?)?  +[A-Z].*\.", entry), entry
