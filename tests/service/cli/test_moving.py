"""The commands `import` and `export`, through a service and by the files."""

import contextlib
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pwserver import Client
from pwserver.cli import main
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


def client_at(shell: Shell) -> Client:
    """Return a client with the shell's token."""
    variables = shell.variables
    return Client(variables["PWSERVER_URL"], token_file=variables["PWSERVER_TOKEN_FILE"])


def content(shell: Shell) -> list[tuple[str, str, list[str], int]]:
    """Return the name, password, labels and version of each user in the book."""
    with client_at(shell) as book:
        return [
            (user.username, book.get_password(user.username).password, user.labels, user.version)
            for user in book.users()
        ]


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
    assert content(shell) == [
        ("Bank/bob", "two\nlines", [], 1),
        ("Example/alice", SECRET, ["Work"], 1),
    ]
    exported = shell.run("export", "out.jsonl", "--yes").record
    assert (exported["users"], exported["refused"]) == (2, [])
    out = shell.folder / "out.jsonl"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    moved = other.run("import", "-", "--json", stdin=out.read_bytes())
    assert (moved.record["format"], moved.record["saved"]) == ("pwserver JSON lines", 2)
    assert content(other) == content(shell)


def test_conflicts_are_reported_and_saved_over_only_if_asked(registered: Registered) -> None:
    """The dry run says before what the import does; the older password stays as a version."""
    shell = registered()
    with client_at(shell) as book:
        book.save_password("mine", username="Example/alice")
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
    assert content(shell) == [("Example/alice", "mine", [], 1)]
    ran = shell.run("import", file)
    assert (ran.code, ran.records[0]["saved"], ran.records[0]["conflicts"]) == (1, 1, 1)
    assert ran.err.startswith(findings)
    assert SECRET not in dry.out + dry.err + ran.out + ran.err
    assert content(shell)[1] == ("Example/alice", "mine", [], 1)
    ran = shell.run("import", file, "--overwrite", "--json")
    assert (ran.code, ran.records[0]["overwritten"]) == (1, 1)
    assert content(shell)[1] == ("Example/alice", SECRET, [], 2)
    with client_at(shell) as book:
        assert book.get_password("Example/alice", version=1).password == "mine"


def test_names_are_made_as_told(registered: Registered) -> None:
    """A template that cannot be used is refused before anything else."""
    shell = registered()
    file = write(shell, keepassxc(LOGINS[:1]))
    shell.run("import", file, "--name", "{folder}: {login} at {host}")
    assert [name for name, *_ in content(shell)] == ["Work: alice at example.com"]
    refused = shell.run("import", "missing.csv", "--name", "{password}")
    assert (refused.code, refused.err) == (
        2,
        "pwserver: name is '{password}'; it must be made of {name}, {login}, {host}, {folder}, "
        "such as {name}/{login}.\n",
    )


def test_rights_that_are_missing_are_named(registered: Registered) -> None:
    """An import needs save and verify, an export list and get."""
    shell = registered("one", "save")
    with client_at(shell) as book:
        book.save_password("mine", username="Example/alice")
    again = shell.run("import", write(shell, chrome(LOGINS)))
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
    with client_at(shell) as book:
        book.save_password("one", username="alice")
    no = shell.type("export", "out.jsonl", typed="n\n")
    assert no.code == 9
    assert "Write every password of the book in the clear into out.jsonl? [y/N]" in no.out
    assert not (shell.folder / "out.jsonl").exists()
    yes = shell.type("export", "out.csv", "--format", "bitwarden", typed="y\n")
    assert yes.code == 0
    assert "1 password in the clear in out.csv, which you alone may read." in yes.out
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
    assert content(shell) == []


def test_a_killed_import_goes_on(registered: Registered) -> None:
    """Run again, it saves what is missing, and doubles nothing."""
    shell = registered()
    logins = [Login(f"site {number}", "alice", f"{SECRET} {number}") for number in range(5000)]
    file = write(shell, chrome(logins))
    command = [sys.executable, "-m", "pwserver", "import", file]
    pipe = subprocess.PIPE
    environment = ENVIRONMENT | shell.variables
    with launched(command, cwd=shell.folder, env=environment, stdout=pipe, stderr=pipe) as process:
        with client_at(shell) as book:
            eventually(lambda: book.list_users(limit=1).users, "the import has begun")
        process.kill()
    ran = shell.run("import", file, "--json")
    assert ran.record["saved"] + ran.record["already_there"] == 5000
    with client_at(shell) as book:
        assert [user.version for user in book.users()] == [1] * 5000


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
    record = (tmp_path / "user_data.audit").read_text()
    assert '"command":"import"' in record
    assert '"command":"export"' in record


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


def test_an_altered_application_gets_nothing(tmp_path: Path) -> None:
    """Somebody who can write to the database could have an import go into another's book."""
    shell = Shell(tmp_path)
    for name in ("web", "other"):
        assert shell.run("app", "add", name, "--may", "get").code == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "user_data.db")) as connection, connection:
        connection.execute("UPDATE application SET book = 2 WHERE name = 'web'")
    file = write(shell, chrome(LOGINS))
    ran = shell.run("import", file, "--database", "user_data.db", "--application", "web")
    assert ran.code != 0
    assert "was altered in the database" in ran.err


def test_a_token_says_whose_book_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An application is named only where there is no token."""
    file = write(Shell(tmp_path), chrome(LOGINS))
    assert main.run(["import", str(tmp_path / file), "--application", "shop"]) == 2
    sentence = "application is for --database; with a service, the token says whose."
    assert capsys.readouterr().err == f"pwserver: {sentence}\n"


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
