"""The commands that talk to a service, as programs run them: with pipes, and JSON lines back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pwserver import Client, UnknownUser
from tests.support.fake_service import Behaviour, FakeService, answer, hang_up, silence
from tests.support.harness import Service
from tests.support.processes import launched
from tests.support.shell import ENVIRONMENT, Shell, client_of, guest_shell_at, shell_at, url_of

UNKNOWN_USER = (1, "", "pwserver: Unknown user! There is no user 'nobody'.\n")
DENIED = "pwserver: Denied! This needs the token of an application that may "


@pytest.fixture
def shell(shared_service: Service, tmp_path: Path) -> Shell:
    """Return a shell at the service."""
    return shell_at(shared_service, tmp_path)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a username of the test's own."""
    return str(request.node.name)


@pytest.fixture
def book(shared_service: Service) -> Iterator[Client]:
    """Return a client of the service."""
    with client_of(shared_service) as client:
        yield client


def test_save_says_which_version_it_made(shell: Shell, name: str, book: Client) -> None:
    """A new name is version 1, a known one the next; labels may be given with it."""
    labels = ("--label", "work", "--label", "at home")
    saved = shell.run("save", "--username", name, *labels, stdin="one\n")
    assert saved.record == {"username": name, "version": 1}
    assert shell.run("save", "--username", name, stdin="two\n").record["version"] == 2
    assert book.get_password(name).password == "two"
    assert next(book.users(prefix=name)).labels == ["work", "at home"]


def test_without_a_token_there_are_no_names(
    shared_service: Service, tmp_path: Path, name: str, book: Client
) -> None:
    """A guest saves without one, counts, generates and checks; the rest is denied."""
    guest = guest_shell_at(shared_service, tmp_path)
    book.save_password("one", username=name)
    before = book.number_of_users()
    saved = guest.run("save", stdin="abc123\n")
    assert (saved.code, saved.out, saved.err) == (0, "Password saved!\n", "")
    assert guest.run("count").out == f"{before + 1}\n"
    assert len(guest.run("generate").record["password"]) == 20
    assert guest.run("strength", stdin="abc123\n").record["strength"] == 0
    for arguments in (
        *(["save", "--username", name], ["save", "--label", "x"], ["generate", "--username", name]),
        *(["get", name], ["delete", name, "--yes"], ["list"], ["status"]),
    ):
        denied = guest.run(*arguments, stdin="two\n")
        assert (denied.code, denied.out) == (1, "")
        assert denied.err.startswith(DENIED)
    assert book.get_password(name).version == 1
    assert book.number_of_users() == before + 1


def test_save_without_a_name_makes_a_user(shell: Shell, book: Client) -> None:
    """What it prints are the basic contract's words, or JSON where that is asked for."""
    before = book.number_of_users()
    saved = shell.run("save", stdin="abc123\n")
    assert (saved.code, saved.out, saved.err) == (0, "Password saved!\n", "")
    assert shell.run("save", "--json", stdin="x").record == {"username": None, "version": None}
    assert book.number_of_users() == before + 2


@pytest.mark.parametrize(
    ("stdin", "password"),
    [
        (b"abc123", "abc123"),
        (b"abc123\n", "abc123"),
        (b"abc123\r\n", "abc123"),
        (b"  a b \n", "  a b "),
        (b"one\ntwo\n\n", "one\ntwo\n"),
        (b"abc\r", "abc\r"),
        ("\N{SNOWMAN}\n".encode(), "\N{SNOWMAN}"),
        (b"x" * 4096, "x" * 4096),
    ],
    ids=["bare", "newline", "CRLF", "spaces", "several lines", "CR", "UTF-8", "longest"],
)
def test_the_password_is_all_of_standard_input(
    shell: Shell, name: str, book: Client, stdin: bytes, password: str
) -> None:
    """Only one newline at its end is not part of it; nothing is cut off in silence."""
    shell.run("save", "--username", name, stdin=stdin)
    assert book.get_password(name).password == password


@pytest.mark.parametrize(
    ("stdin", "refusal"),
    [
        (b"", (2, "no password was given.")),
        (b"\n", (2, "no password was given.")),
        (b"abc\xff\n", (2, "the password is not valid UTF-8.")),
        (b"x" * 4097, (1, 'Invalid message! "password" is longer than 4096 characters.')),
        (b"x" * 20_000, (2, "a password has 4,096 characters at the most.")),
        (b"a\0b", (1, 'Invalid message! "password" holds a NUL character.')),
    ],
    ids=["empty", "only a newline", "no UTF-8", "too long", "endless", "NUL"],
)
def test_what_is_no_password_is_refused(
    shell: Shell, name: str, book: Client, stdin: bytes, refusal: tuple[int, str]
) -> None:
    """One sentence, nothing saved, and nothing of it repeated."""
    code, sentence = refusal
    refused = shell.run("save", "--username", name, stdin=stdin)
    assert (refused.code, refused.out, refused.err) == (code, "", f"pwserver: {sentence}\n")
    assert list(book.users(prefix=name)) == []


def test_get_prints_a_password_into_a_pipe(shell: Shell, name: str, book: Client) -> None:
    """A program that reads the output has asked for the password; `--raw` prints it alone."""
    book.save_password("one", username=name)
    book.save_password(" t\two ", username=name)
    found = shell.run("get", name).record
    saved_at = found.pop("time_saved")
    assert found == {"username": name, "version": 2, "password": " t\two "}
    assert time.strptime(saved_at, "%Y-%m-%dT%H:%M:%SZ")
    assert shell.run("get", name, "--version", "1").record["password"] == "one"
    assert shell.run("get", name, "--json", "--show").record["password"] == " t\two "
    assert shell.run("get", name, "--raw").out == " t\two \n"
    gone = shell.run("get", name, "--version", "3")
    assert (gone.code, gone.out) == (1, "")
    assert (
        gone.err == f"pwserver: Unknown version! There is no version 3 of {name!r}, or no more.\n"
    )


def test_verify_exits_with_the_answer(shell: Shell, name: str, book: Client) -> None:
    """0 where the password is right, 1 where not; an unknown name is like a wrong password."""
    book.save_password("abc123", username=name)
    right = shell.run("verify", name, stdin="abc123\n")
    assert right.record == {"username": name, "valid": True}
    for username, stdin in [(name, "abc"), (f"no {name}", "abc123")]:
        wrong = shell.run("verify", username, stdin=stdin)
        assert (wrong.code, wrong.err) == (1, "")
        assert wrong.records == [{"username": username, "valid": False}]


def test_list_prints_a_line_for_each_user(shell: Shell, name: str, book: Client) -> None:
    """In the order of names, those that are asked for, and never a password."""
    for number, labels in [(2, ["work"]), (1, []), (3, ["work", "home"])]:
        book.save_password("secret", username=f"{name} {number}", labels=labels)
    listed = shell.run("list", "--prefix", name)
    assert "secret" not in listed.out
    assert [user["username"] for user in listed.records] == [f"{name} {n}" for n in (1, 2, 3)]
    assert [user["labels"] for user in listed.records] == [[], ["work"], ["work", "home"]]
    for user in listed.records:
        assert list(user) == ["username", "labels", "version", "time_saved"]
    work = shell.run("list", "--prefix", name, "--label", "work", "--limit", "1")
    assert work.record["username"] == f"{name} 2"
    nobody = shell.run("list", "--prefix", name, "--label", "no such label")
    assert (nobody.code, nobody.out, nobody.err) == (0, "", "")


def test_a_pipe_gets_every_user(start: Callable[..., Service], tmp_path: Path) -> None:
    """A listing for a program is not cut off; whoever reads only its beginning may stop there."""
    service = start()
    with client_of(service) as book, book.pipeline() as many:
        for number in range(2000):
            many.save_password("x", username=f"{number:04} {'n' * 100}")
    shell = shell_at(service, tmp_path)
    listed = shell.run("list")
    assert [int(user["username"][:4]) for user in listed.records] == list(range(2000))
    with launched(
        [sys.executable, "-m", "pwserver", "list"],
        cwd=tmp_path,
        env=ENVIRONMENT | shell.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"username": "0000 ')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_an_answer_that_nobody_reads_ends_quietly(shell: Shell) -> None:
    """A short one as well, which is written at the end of everything."""
    ours, its = os.pipe()
    os.close(ours)
    result = subprocess.run(
        [sys.executable, "-m", "pwserver", "count"],
        cwd=shell.folder,
        env=ENVIRONMENT | shell.variables,
        stdout=its,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(its)
    assert (result.returncode, result.stderr) == (1, b"")


def test_history_lists_versions_newest_first(shell: Shell, name: str, book: Client) -> None:
    """Versions and times, never values."""
    for password in ("one", "two", "three"):
        book.save_password(password, username=name)
    listed = shell.run("history", name)
    assert [version["version"] for version in listed.records] == [3, 2, 1]
    assert {tuple(version) for version in listed.records} == {("version", "time_saved")}


def test_restore_makes_an_old_version_the_newest(shell: Shell, name: str, book: Client) -> None:
    """It is saved once more, as a version of its own."""
    book.save_password("one", username=name)
    book.save_password("two", username=name)
    assert shell.run("restore", name, "--version", "1").record == {"username": name, "version": 3}
    assert book.get_password(name).password == "one"
    assert shell.run("restore", name, "2").record == {"username": name, "version": 4}
    assert book.get_password(name).password == "two"
    assert shell.run("restore", name, "9").err == (
        f"pwserver: Unknown version! There is no version 9 of {name!r}, or no more.\n"
    )


def test_label_sets_the_labels(shell: Shell, name: str, book: Client) -> None:
    """Those that are given take the place of those that were; none shows them, as they are."""
    book.save_password("x", username=name, labels=["old"])
    assert shell.run("label", name, "b", "a").record == {"username": name, "labels": ["b", "a"]}
    assert next(book.users(prefix=name)).labels == ["b", "a"]
    assert shell.run("label", name).record == {"username": name, "labels": ["b", "a"]}
    assert next(book.users(prefix=name)).labels == ["b", "a"]
    assert shell.run("label", name, "--clear").record == {"username": name, "labels": []}
    assert next(book.users(prefix=name)).labels == []


def test_show_shows_one_user(shell: Shell, name: str, book: Client) -> None:
    """Labels, versions and times of the very name, however it is typed; never a password."""
    typed = f"{name} e\N{COMBINING ACUTE ACCENT}"
    book.save_password("one", username=typed, labels=["work"])
    book.save_password("two", username=typed)
    book.save_password("other", username=f"{typed} more", labels=["other"])
    shown = shell.run("show", typed)
    user = shown.record
    assert list(user) == ["username", "labels", "version", "time_saved", "versions_kept"]
    assert (user["username"], user["labels"]) == (
        f"{name} \N{LATIN SMALL LETTER E WITH ACUTE}",
        ["work"],
    )
    assert [each["version"] for each in user["versions_kept"]] == [2, 1]
    assert user["time_saved"] == user["versions_kept"][0]["time_saved"]
    assert not [word for word in ("one", "two") if f'"{word}"' in shown.out]
    unknown = shell.run("show", name)
    assert (unknown.code, unknown.out) == (1, "")


def test_show_finds_a_name_that_others_begin_with(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    """Among 2,000 of the same beginning, and a generated one among others, the one is shown."""
    service = start()
    with client_of(service) as book:
        with book.pipeline() as many:
            for number in range(2000):
                many.save_password("x", username=f"a{number:04}")
            many.save_password("x", username="a")
            for _ in range(3):
                many.save_password("x")
        generated = [user.username for user in book.users(prefix="user-")]
    shell = shell_at(service, tmp_path)
    for name in ("a", "a0999", *generated):
        assert shell.run("show", name).record["username"] == name
    assert shell.run("show", "a099").code == 1
    assert shell.run("label", "a").record == {"username": "a", "labels": []}


def test_delete_wants_a_yes(shell: Shell, name: str, book: Client) -> None:
    """Where nobody can be asked nothing is deleted, whatever stands on standard input."""
    book.save_password("x", username=name)
    refused = shell.run("delete", name, stdin="y\n")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "pwserver: nobody is there to confirm this: add --yes.\n"
    assert book.get_password(name).password == "x"
    assert shell.run("delete", name, "--yes").record == {"username": name, "deleted": True}
    with pytest.raises(UnknownUser):
        book.get_password(name)


def test_generate_prints_what_it_made(shell: Shell, name: str, book: Client) -> None:
    """A new password each time, of what is asked for; with a name it is saved as well."""
    made = [shell.run("generate").record for _ in range(2)]
    assert made[0] != made[1]
    assert [list(each) for each in made] == [["password"]] * 2
    assert len(made[0]["password"]) == 20
    saved = shell.run("generate", "--username", name, "--label", "x", "--alphabet", "ab").record
    assert list(saved) == ["username", "version", "password"]
    assert (saved["username"], saved["version"]) == (name, 1)
    assert set(saved["password"]) <= set("ab")
    assert book.get_password(name).password == saved["password"]
    raw = shell.run("generate", "--username", name, "--length", "8", "--raw")
    assert raw.out == book.get_password(name).password + "\n"
    assert len(raw.out) == 9


def test_strength_tells_how_strong_a_password_is(shell: Shell) -> None:
    """From 0 to 4, and what is weak about it."""
    weak = shell.run("strength", stdin="abc123\n").record
    assert list(weak) == ["strength", "warning", "suggestions"]
    assert weak["strength"] == 0
    assert weak["warning"]
    assert shell.run("strength", stdin="correct horse battery staple\n").record["strength"] == 4


def test_count_status_and_ping_say_how_it_is(shell: Shell, book: Client) -> None:
    """The total is a number alone, and the status has all that the service says of itself."""
    assert shell.run("ping").out == "Alive!\n"
    assert shell.run("count").out == f"{book.number_of_users()}\n"
    status = shell.run("status").record
    assert list(status) == ["number_of_users", "workers", "uptime_s", "parts"]
    assert status["parts"]["pwserver"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["get"],
        ["history"],
        ["show"],
        ["restore", "1"],
        ["label", "x"],
        ["label"],
        ["delete", "--yes"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_unknown_user_is_one_plain_sentence(shell: Shell, arguments: list[str]) -> None:
    """In the words of the wire, on standard error, with exit code 1."""
    refused = shell.run(arguments[0], "nobody", *arguments[1:])
    assert (refused.code, refused.out, refused.err) == UNKNOWN_USER


def test_a_refusal_says_what_is_wrong(shell: Shell) -> None:
    """The reason that the service gives stands behind its word."""
    refused = shell.run("get", "a\nb")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith('pwserver: Invalid message! "username" holds a character')


def test_a_name_may_begin_with_a_hyphen(shell: Shell) -> None:
    """Behind `--` everything is a name, as everywhere."""
    refused = shell.run("get", "--", "--show")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "pwserver: Unknown user! There is no user '--show'.\n"


def test_no_service_is_said_plainly_and_soon(tmp_path: Path) -> None:
    """Where nobody listens: one sentence, exit code 3, after some attempts in about a second."""
    began = time.monotonic()
    failed = Shell(tmp_path).run("count", "--url", "pwserver://127.0.0.1:1")
    assert time.monotonic() - began < 30
    assert (failed.code, failed.out) == (3, "")
    assert failed.err == "pwserver: 127.0.0.1:1 cannot be reached: Connection refused.\n"


@pytest.mark.parametrize(
    ("behaviour", "arguments", "code", "words"),
    [
        (silence, ["ping", "--timeout-s", "0.1"], 3, "did not answer in time"),
        (silence, ["save", "--timeout-s", "0.1"], 8, "may or may not have been saved"),
        (hang_up, ["save"], 8, "may or may not have been saved"),
        (answer(b"<html>\n"), ["count"], 3, "the answer is not one of this service"),
    ],
    ids=["slow", "slow save", "lost save", "alien"],
)
def test_a_service_that_misbehaves_is_said_plainly(
    tmp_path: Path, behaviour: Behaviour, arguments: list[str], code: int, words: str
) -> None:
    """One sentence, and the exit code says whether something may have been changed."""
    with FakeService(behaviour) as service:
        failed = Shell(tmp_path).run(*arguments, "--url", service.url, stdin="x")
    assert failed.code == code, failed
    assert words in failed.err
    assert failed.err.startswith("pwserver: ")
    assert failed.err.count("\n") == 1


def test_urls_name_the_service(shared_service: Service, tmp_path: Path) -> None:
    """From the flag, the environment and the file, in this order; what is no URL is refused."""
    here, nowhere = url_of(shared_service), "pwserver://127.0.0.1:1"
    file = tmp_path / "pwserver.toml"
    file.write_text(f'url = "{here}"\n')
    assert Shell(tmp_path).run("ping").code == 0
    file.write_text(f'url = "{nowhere}"\n')
    shell = Shell(tmp_path, {"PWSERVER_URL": here})
    assert shell.run("ping").code == 0
    assert shell.run("ping", "--url", nowhere).code == 3
    refused = shell.run("ping", "--url", "http://127.0.0.1:1")
    assert refused.code == 2
    assert refused.err.startswith("pwserver: the URL must begin with pwserver://")
