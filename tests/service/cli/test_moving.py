"""The commands `import` and `export`, through a service and by the files."""

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pwserver.wire.messages import Right
from tests.conftest import Start
from tests.support.exports import Login, chrome, keepassxc
from tests.support.harness import Service, eventually
from tests.support.processes import launched
from tests.support.shell import ENVIRONMENT, Shell, guest_shell_at, write_token

SECRET = "hunter2"
LOGINS = [Login("Example", "alice", SECRET, folder="Work"), Login("Bank", "bob", "two\nlines")]

Registered = Callable[..., Shell]


@pytest.fixture
def registered(
    shared_service: Service, tmp_path: Path, request: pytest.FixtureRequest
) -> Registered:
    """Return a function that makes a shell for a new application with a book of its own."""

    def register(name: str = "one", *may: Right) -> Shell:
        folder = tmp_path / name
        folder.mkdir()
        shell = guest_shell_at(shared_service, folder)
        rights = may or ("save", "get", "verify", "list")
        token = shared_service.add_application(f"{request.node.name} {name}", rights)
        shell.variables["PWSERVER_TOKEN_FILE"] = write_token(folder, token)
        return shell

    return register


def write(shell: Shell, text: str, name: str = "export.csv") -> str:
    """Write a file into the shell's folder; return its name."""
    (shell.folder / name).write_text(text, newline="")
    return name


def users(shell: Shell) -> list[dict[str, Any]]:
    """Return the names, labels and versions in the book."""
    kept = ("username", "labels", "version")
    return [{key: each[key] for key in kept} for each in shell.run("list").records]


def test_what_is_imported_can_be_exported_and_imported(registered: Registered) -> None:
    """Another book gets the same names, passwords and labels; a second run saves nothing."""
    shell, other = registered(), registered("other")
    file = write(shell, keepassxc(LOGINS))
    ran = shell.run("import", file)
    assert (ran.code, ran.err) == (
        0,
        "export.csv still has the passwords in the clear: delete it when all is well.\n",
    )
    assert ran.records == [
        {
            "file": "export.csv",
            "format": "KeePassXC CSV",
            "saved": 2,
            "overwritten": 0,
            "already_there": 0,
            "conflicts": 0,
            "duplicates": 0,
            "broken": 0,
            "left_out": {"web addresses": 2},
            "findings": [],
        }
    ]
    assert shell.run("import", file, "--json").record["already_there"] == 2
    assert users(shell) == [
        {"username": "Bank/bob", "labels": [], "version": 1},
        {"username": "Example/alice", "labels": ["Work"], "version": 1},
    ]
    exported = shell.run("export", "out.jsonl", "--yes").record
    assert (exported["users"], exported["refused"]) == (2, [])
    out = shell.folder / "out.jsonl"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    moved = other.run("import", "-", "--json", stdin=out.read_bytes())
    assert (moved.record["format"], moved.record["saved"]) == ("pwserver JSON lines", 2)
    assert users(other) == users(shell)
    assert other.run("get", "Example/alice", "--raw").out == f"{SECRET}\n"
    assert other.run("get", "Bank/bob").record["password"] == "two\nlines"


def test_conflicts_are_reported_and_saved_over_only_if_asked(registered: Registered) -> None:
    """The dry run says before what the import does; the older password stays as a version."""
    shell = registered()
    shell.run("save", "--username", "Example/alice", stdin="mine")
    file = write(shell, chrome([*LOGINS, LOGINS[0]]) + f"{SECRET}\n")
    dry = shell.run("import", file, "--dry-run")
    assert dry.code == 1
    assert [(each["line"], each["name"], each["result"]) for each in dry.records] == [
        (2, "Example/alice", "conflict"),
        (3, "Bank/bob", "would be saved"),
    ]
    findings = (
        "Line 2 is in conflict: 'Example/alice' is there with another password.\n"
        "Line 5 is the same as line 2.\n"
        "Line 6 has 1 fields, and the header has 5.\n"
    )
    assert dry.err.startswith(findings)
    assert [each["username"] for each in users(shell)] == ["Example/alice"]
    ran = shell.run("import", file)
    assert (ran.code, ran.records[0]["saved"], ran.records[0]["conflicts"]) == (1, 1, 1)
    assert ran.err.startswith(findings)
    assert SECRET not in dry.out + dry.err + ran.out + ran.err
    assert shell.run("get", "Example/alice", "--raw").out == "mine\n"
    for overwritten in (1, 0):
        ran = shell.run("import", file, "--overwrite", "--json")
        assert (ran.code, ran.records[0]["overwritten"]) == (1, overwritten)
    assert shell.run("get", "Example/alice").record["version"] == 2
    assert shell.run("get", "Example/alice", "--version", "1", "--raw").out == "mine\n"


def test_names_are_made_as_told(registered: Registered) -> None:
    """A template that cannot be used is refused before anything else."""
    shell = registered()
    file = write(shell, keepassxc(LOGINS[:1]))
    shell.run("import", file, "--name", "{folder}: {login} at {host}")
    assert [each["username"] for each in users(shell)] == ["Work: alice at example.com"]
    refused = shell.run("import", "missing.csv", "--name", "{password}")
    assert (refused.code, refused.err) == (
        2,
        "pwserver: name is '{password}'; it must be made of {name}, {login}, {host}, {folder}, "
        "such as {name}/{login}.\n",
    )


def test_rights_that_are_missing_are_named(registered: Registered) -> None:
    """An import needs save and verify, an export list and get."""
    shell = registered("one", "save")
    file = write(shell, chrome(LOGINS))
    assert shell.run("import", file).code == 0
    again = shell.run("import", file)
    assert (again.code, again.out) == (1, "")
    assert "Denied!" in again.err
    assert "verify" in again.err
    exported = shell.run("export", "out.jsonl", "--yes")
    assert (exported.code, exported.out) == (1, "")
    assert "list" in exported.err
    assert not (shell.folder / "out.jsonl").exists()


def test_an_export_asks_first(registered: Registered) -> None:
    """It says that all will be in the clear; without a yes there is no file."""
    shell = registered()
    shell.run("import", write(shell, chrome(LOGINS)))
    nobody = shell.run("export", "out.jsonl")
    assert (nobody.code, nobody.out) == (2, "")
    assert nobody.err == "pwserver: nobody is there to confirm this: add --yes.\n"
    no = shell.type("export", "out.jsonl", typed="n\n")
    assert no.code == 9
    assert "Write every password of the book in the clear into out.jsonl? [y/N]" in no.out
    assert not (shell.folder / "out.jsonl").exists()
    yes = shell.type("export", "out.csv", "--format", "bitwarden", typed="y\n")
    assert yes.code == 0
    assert "2 passwords in the clear in out.csv, which you alone may read." in yes.out
    again = shell.type("export", "out.csv", typed="n\n")
    assert "and replace what is in it?" in again.out
    assert (shell.folder / "out.csv").read_text().startswith('"folder","favorite"')


def test_a_dry_run_shows_a_table(registered: Registered) -> None:
    """A person sees names, labels and what would happen; and what the file has besides."""
    shell = registered()
    shown = shell.type("import", write(shell, keepassxc(LOGINS)), "--dry-run")
    assert shown.code == 0
    assert "Example/alice   Work     would be saved" in shown.out
    assert "A dry run, which has saved nothing" in shown.out
    assert "web addresses (2)" in shown.out
    assert SECRET not in shown.out
    assert users(shell) == []


def test_a_killed_import_goes_on(registered: Registered) -> None:
    """Run again, it saves what is missing, and doubles nothing."""
    shell = registered()
    logins = [Login(f"site {number}", "alice", f"{SECRET} {number}") for number in range(5000)]
    file = write(shell, chrome(logins))
    command = [sys.executable, "-m", "pwserver", "import", file]
    pipe = subprocess.PIPE
    environment = ENVIRONMENT | shell.variables
    with launched(command, cwd=shell.folder, env=environment, stdout=pipe, stderr=pipe) as process:
        eventually(lambda: shell.run("list", "--limit", "1").records, "the import has begun")
        process.kill()
    ran = shell.run("import", file, "--json")
    assert ran.record["saved"] + ran.record["already_there"] == 5000
    listed = users(shell)
    assert len(listed) == 5000
    assert {each["version"] for each in listed} == {1}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x7fELF\0\xff", "export.csv is no text in UTF-8; is it a binary file?"),
        (b'{"encrypted": true}', "export.csv is an encrypted export of Bitwarden, "),
        (b"alice,hunter2", "export.csv is of no format that can be imported."),
    ],
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    """One plain sentence, before a service is looked for; the exit code is 2."""
    (tmp_path / "export.csv").write_bytes(content)
    refused = Shell(tmp_path).run("import", "export.csv")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"pwserver: {sentence}")
    assert SECRET not in refused.err


# --- By the files. ---


def test_a_book_is_filled_before_the_first_start(tmp_path: Path, start: Start) -> None:
    """The service gives out what was imported by the files, and an export by the files has it."""
    shell = Shell(tmp_path)
    file = write(shell, chrome(LOGINS))
    at = ("--database", "user_data.db")
    no_book = shell.run("import", file, *at, "--dry-run")
    assert (no_book.code, no_book.err) == (
        5,
        "pwserver: there is no password book user_data.db yet.\n",
    )
    ran = shell.run("import", file, *at)
    assert "Made the database user_data.db." in ran.err
    assert (ran.code, ran.records[0]["saved"]) == (0, 2)
    service = start()
    with service.owner() as owner:
        reply = owner.ask({"message": "get_password", "username": "Example/alice"})
        assert (reply["password"], reply["version"]) == (SECRET, 1)
    assert service.stop() == 0
    exported = shell.run("export", "out.csv", *at, "--format", "keepassxc", "--yes").record
    assert exported["users"] == 2
    assert SECRET in (tmp_path / "out.csv").read_text()
    commands = [each["more"] for each in shell.run("audit", "show").records]
    assert "command import" in commands
    assert "command export" in commands


def test_an_application_names_its_book(tmp_path: Path) -> None:
    """Without one it is the common book."""
    shell = Shell(tmp_path)
    shell.run("app", "add", "shop", "--may", "save")
    file, at = write(shell, chrome(LOGINS)), ("--database", "user_data.db")
    assert shell.run("import", file, *at, "--application", "shop").records[0]["saved"] == 2
    assert shell.run("export", "common.jsonl", *at, "--yes").record["users"] == 0
    shop = shell.run("export", "shop.jsonl", *at, "--yes", "--application", "shop")
    assert shop.record["users"] == 2
    unknown = shell.run("import", file, *at, "--application", "nobody")
    assert (unknown.code, unknown.out) == (1, "")
    wrong = shell.run("import", file, "--application", "shop")
    assert wrong.err == (
        "pwserver: application is for --database; with a service, the token says whose.\n"
    )


def test_what_cannot_be_recorded_is_not_done(tmp_path: Path) -> None:
    """Neither an import nor an export by the files begins before its record is written."""
    shell = Shell(tmp_path)
    (tmp_path / "audit").mkdir()
    at = ("--database", "user_data.db", "--audit-file", "audit")
    refused = shell.run("import", write(shell, chrome(LOGINS)), *at)
    assert (refused.code, refused.out) == (5, "")
    assert "the audit record audit cannot be written. Nothing was done." in refused.err
    assert shell.run("export", "out.jsonl", "--yes", *at).code == 5
    assert not (tmp_path / "out.jsonl").exists()
    exported = shell.run("export", "out.jsonl", "--yes", *at[:2])
    assert exported.record["users"] == 0


def test_files_that_a_service_has_are_refused(
    registered: Registered, shared_service: Service
) -> None:
    """The service is unhurt; the sentence says what to do."""
    shell = registered()
    file, database = write(shell, chrome(LOGINS)), str(shared_service.database)
    for command in (["import", file], ["export", "out.jsonl", "--yes"]):
        refused = shell.run(*command, "--database", database)
        assert (refused.code, refused.out) == (1, "")
        assert refused.err == (
            f"pwserver: a service runs on {database}. Leave out --database and use a token, or "
            "stop it.\n"
        )
    assert shell.run("import", file, "--json").record["saved"] == 2
