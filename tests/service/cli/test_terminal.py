"""The commands as a person meets them, on a terminal: what is asked, shown, hidden and refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pwserver import Client, UnknownUser
from pwserver.cli import output as printed
from tests.support.fake_service import ALIVE, TIME, FakeService, Message, answer
from tests.support.harness import Service
from tests.support.shell import Shell, client_of, shell_at

EVIL = "\x1b]0;x\x07\x9b1m\r\u202e"
"""What would set the title and the colour of a terminal, and overwrite and turn round the line."""
ASKED_TWICE = "Password: \nOnce more: \n"
HARMLESS = r"\u{1b}]0;x\u{7}\u{9b}1m\u{d}\u{202e}"


@pytest.fixture
def shell(shared_service: Service, tmp_path: Path) -> Shell:
    """Return a shell at the service."""
    return shell_at(shared_service, tmp_path)


@pytest.fixture
def book(shared_service: Service) -> Iterator[Client]:
    """Return a client of the service."""
    with client_of(shared_service) as client:
        yield client


def test_the_prompt_does_not_show_the_password(shell: Shell, book: Client) -> None:
    """A password is asked for, not echoed, and saved; what was done is said in a sentence."""
    saved = shell.type("save", "--username", "typed", typed="abc123\n" * 2)
    assert saved.code == 0
    assert saved.out == f"{ASKED_TWICE}Password saved! typed is at version 1.\n"
    assert book.get_password("typed").password == "abc123"
    assert shell.type("save", typed="abc123\n" * 2).out == f"{ASKED_TWICE}Password saved!\n"


@pytest.mark.parametrize("again", ["abc124\n", "\n"], ids=["another", "none"])
def test_a_password_that_is_typed_in_two_ways_is_not_saved(
    shell: Shell, book: Client, again: str
) -> None:
    """Nobody sees what they type, so what is saved is asked for twice."""
    refused = shell.type("save", "--username", "mistyped", typed=f"abc123\n{again}")
    sentence = "these were two different passwords; nothing was done. Try again."
    assert (refused.code, refused.out) == (2, f"{ASKED_TWICE}pwserver: {sentence}\n")
    assert list(book.users(prefix="mistyped")) == []


@pytest.mark.parametrize("typed", ["\n", "\x04"], ids=["Enter", "Ctrl-D"])
def test_no_password_typed_is_none(shell: Shell, typed: str) -> None:
    """Nothing is saved, and that is said."""
    refused = shell.type("save", "--username", "nobody", typed=typed)
    assert (refused.code, refused.out) == (2, "Password: \npwserver: no password was given.\n")


def test_ctrl_c_ends_a_prompt(shell: Shell) -> None:
    """Quietly, on a line of its own, with the exit code that shells give to an interrupt."""
    interrupted = shell.type("save", typed="\x03")
    assert (interrupted.code, interrupted.out) == (130, "Password: \n")


def test_verify_answers_in_a_sentence(shell: Shell, book: Client) -> None:
    """What it prints says the same as its exit code."""
    book.save_password("abc123", username="verified")
    right = shell.type("verify", "verified", typed="abc123\n")
    assert (right.code, right.out) == (0, "Password: \nIt is right.\n")
    wrong = shell.type("verify", "verified", stdin=b"abc\n")
    assert (wrong.code, wrong.out) == (1, "It is wrong, or there is no such user.\n")


def test_a_password_is_shown_only_when_asked_for(shell: Shell, book: Client) -> None:
    """Hidden on a terminal, in JSON as well; `--show` shows it, and `--raw` wants `--show`."""
    book.save_password("abc123", username="shown")
    hidden = shell.type("get", "shown")
    assert hidden.code == 0
    assert re.fullmatch(
        r"username    shown\nversion     1\ntime saved  \S+Z\npassword    \(hidden; --show\)\n",
        hidden.out,
    )
    assert shell.type("get", "shown", "--show").out.endswith("\npassword    abc123\n")
    in_json = shell.type("get", "shown", "--json")
    assert list(in_json.records[0]) == ["username", "version", "time_saved"]
    assert shell.type("get", "shown", "--json", "--show").records[0]["password"] == "abc123"
    refused = shell.type("get", "shown", "--raw")
    assert refused.code == 2
    assert refused.out == "pwserver: a terminal does not show passwords: add --show.\n"
    assert shell.type("get", "shown", "--raw", "--show").out == "abc123\n"


def test_a_generated_password_is_never_lost(shell: Shell, book: Client) -> None:
    """One that is neither saved nor shown is not made; a saved one is shown only if asked for."""
    refused = shell.type("generate")
    assert refused.code == 2
    assert refused.out.startswith("pwserver: the password would be lost: add --show, or --username")
    assert shell.type("generate", "--json").code == 2
    assert re.fullmatch(r"password  \w{20}\n", shell.type("generate", "--show").out)
    saved = shell.type("generate", "--username", "made")
    assert saved.out == "username  made\nversion   1\npassword  (hidden; --show)\n"
    assert len(book.get_password("made").password) == 20


@pytest.mark.parametrize(
    ("typed", "deleted"),
    [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False), ("\x04", False)],
    ids=["y", "Yes", "n", "Enter", "Ctrl-D"],
)
def test_delete_asks(shell: Shell, book: Client, typed: str, deleted: bool) -> None:
    """Only a yes deletes; everything else is a no, which has an exit code of its own."""
    book.save_password("x", username="victim")
    result = shell.type("delete", "victim", typed=typed)
    question = "Delete 'victim' with all versions of its password? [y/N] "
    said = "User deleted!" if deleted else "pwserver: nothing was done."
    assert result.out == f"{question}{typed if typed != chr(4) else chr(10)}{said}\n"
    assert result.code == (0 if deleted else 9)
    if deleted:
        with pytest.raises(UnknownUser):
            book.get_password("victim")
    else:
        assert book.get_password("victim").password == "x"
        assert shell.type("delete", "victim", "--yes").out == "User deleted!\n"


def test_listings_are_tables(shell: Shell, book: Client) -> None:
    """With a heading, a line for each user or version, and no password."""
    book.save_password("secret", username="table 1", labels=["a", "b"])
    book.save_password("secret", username="table 2")
    heading, rule, *rows = shell.type("list", "--prefix", "table").out.splitlines()
    assert heading.split() == ["username", "labels", "version", "time", "saved"]
    assert set(rule) == {"─"}
    assert [row.split()[:-1] for row in rows] == [
        ["table", "1", "a,", "b", "1"],
        ["table", "2", "1"],
    ]
    assert shell.type("list", "--prefix", "no such").out == "There are none.\n"
    (in_json,) = shell.type("list", "--prefix", "table 1", "--json").records
    assert in_json["labels"] == ["a", "b"]
    heading, _, row = shell.type("history", "table 1").out.splitlines()
    assert heading.split() == ["version", "time", "saved"]
    assert row.split()[0] == "1"


@pytest.mark.parametrize("columns", [100, 80, 60, 40, 20])
def test_numbers_and_times_are_whole_at_any_width(tmp_path: Path, columns: int) -> None:
    """Where a table is too wide for them it is folded at texts, or becomes lines."""
    user = {"username": "name " * 8 + "end", "labels": ["a label"] * 9, "version": 1_234_567}
    page = {"message": "return_users", "users": [{**user, "time_saved": TIME}] * 2, "after": None}
    with FakeService(answer(page)) as service:
        shell = Shell(tmp_path, {"COLUMNS": str(columns), "PWSERVER_URL": service.url})
        shown = shell.type("list").out
    assert shown.count("1234567") == shown.count(TIME) == 2
    if columns > 40:
        assert max(map(len, shown.splitlines())) <= columns
        assert shown.startswith("username ")


def test_a_wide_table_goes_without_its_least_important_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which; where even the rest does not fit, each record is lines with all of it."""
    monkeypatch.setattr(printed, "on_terminal", lambda: True)
    row = {"n": 7, "time": "2026-11-22T17:20:01.123Z", "action": "get", "more": "x" * 40}
    monkeypatch.setenv("COLUMNS", "45")
    printed.records([row] * 2, as_json=False, least=("more", "n"))
    heading, _, first, second, note = capsys.readouterr().out.splitlines()
    assert heading.split() == ["n", "time", "action"]
    assert first.split() == second.split() == ["7", row["time"], "get"]
    assert note == "Left out here: more. A wider terminal shows it, and --json."
    monkeypatch.setenv("COLUMNS", "30")
    printed.records([row], as_json=False, least=("more", "n"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [[k, str(v)] for k, v in row.items()]


def test_sentences_are_wrapped_at_words(tmp_path: Path) -> None:
    """On a narrow terminal no word of an error is broken."""
    shell = Shell(tmp_path, {"COLUMNS": "40"})
    wrapped = shell.type("generate").out
    assert max(map(len, wrapped.splitlines())) <= 40
    words = "pwserver: the password would be lost: add --show, or --username to save it."
    assert " ".join(wrapped.split()) == words


def test_a_long_listing_is_cut_and_says_so(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A table ends after 1,000 users with a sentence on how to see others, where there are more."""
    more = "There are more: narrow them down with --prefix, or ask for more with --limit."
    users = [
        {"username": f"user {n:04}", "labels": [], "version": 1, "time_saved": TIME}
        for n in range(1001)
    ]
    page = {"message": "return_users", "users": users, "after": None}
    with FakeService(answer(page)) as service:
        listed = Shell(tmp_path).type("list", "--url", service.url).out.splitlines()
    assert len(listed) == 2 + 1000 + 1
    assert listed[-1] == more
    with FakeService(answer({**page, "users": users[:1000]})) as service:
        assert more not in Shell(tmp_path).type("list", "--url", service.url).out
    with FakeService(answer(page)) as service:
        listed = (
            Shell(tmp_path).type("list", "--limit", "1001", "--url", service.url).out.splitlines()
        )
    assert len(listed) == 2 + 1001


def test_the_rest_is_said_in_sentences(shell: Shell, book: Client) -> None:
    """What was changed, how strong a password is, how many users there are."""
    book.save_password("one", username="said")
    assert shell.type("restore", "said", "1").out == "Password restored! said is at version 2.\n"
    assert shell.type("label", "said", "a", "b").out == "User labelled! Labels of said: a, b.\n"
    assert shell.type("label", "said").out == "Labels of said: a, b.\n"
    shown = shell.type("show", "said").out
    assert re.fullmatch(
        r"username +said\nlabels +a, b\nversion +2\ntime saved +\S+Z\nversions kept +2, 1\n", shown
    )
    cleared = shell.type("label", "said", "--clear").out
    assert cleared == "User labelled! Labels of said: none.\n"
    weak = shell.type("strength", typed="abc123\n").out
    assert weak.startswith("Password: \nStrength 0 of 4. ")
    assert "abc123" not in weak
    assert re.fullmatch(r"\d+ users?\n", shell.type("count").out)
    assert re.match(r"number of users +\d+\nworkers +\d\nuptime s +\d", shell.type("status").out)
    unknown = shell.type("get", "nobody")
    assert (unknown.code, unknown.out) == (
        1,
        "pwserver: Unknown user! There is no user 'nobody'.\n",
    )


LISTED = {"username": EVIL, "labels": [EVIL], "version": 1, "time_saved": TIME}
FOUND = {"message": "return_password", **LISTED, "password": EVIL}
STATUS = {"message": "return_status", "number_of_users": 1, "workers": 1, "uptime_s": 1.0}


@pytest.mark.parametrize(
    ("reply", "arguments"),
    [
        ({"message": "return_users", "users": [{**LISTED, "labels": []}], "after": None}, ["list"]),
        (FOUND, ["get", "x"]),
        (FOUND, ["get", "x", "--raw", "--show"]),
        (
            {"message": "Password saved!", "username": EVIL, "version": 1},
            ["save", "--username", "x"],
        ),
        ({**STATUS, "parts": {EVIL: EVIL}}, ["status"]),
        ({"message": "Not saved!", "error": EVIL}, ["save"]),
        ({"message": "User labelled!", "labels": [EVIL]}, ["label", "x", "a"]),
    ],
    ids=["table", "record", "raw", "sentence", "heading", "error", "labels"],
)
def test_a_hostile_service_cannot_steer_the_terminal(
    tmp_path: Path, reply: Message, arguments: list[str]
) -> None:
    """What could be taken for a command to the terminal is shown by its number."""
    with FakeService(answer(reply)) as service:
        shown = Shell(tmp_path).type(*arguments, "--url", service.url, typed="x\n" * 2).out
    assert HARMLESS in shown.replace("\n", "")


@pytest.mark.parametrize("show", [[], ["--show"]], ids=["hidden", "shown"])
def test_json_on_a_terminal_is_harmless_and_exact(tmp_path: Path, show: list[str]) -> None:
    """Such characters are escaped as JSON can, so that what is read from it is what was sent."""
    with FakeService(answer(FOUND)) as service:
        (shown,) = Shell(tmp_path).type("get", "x", "--json", "--url", service.url, *show).records
    assert shown["username"] == EVIL
    assert shown.get("password") == (EVIL if show else None)


def test_output_for_a_program_is_exact(tmp_path: Path) -> None:
    """Through a pipe a password goes as it is, whatever is in it."""
    with FakeService(answer(FOUND)) as service:
        raw: Any = Shell(tmp_path, {"PWSERVER_URL": service.url}).run("get", "x", "--raw")
    assert raw.out == EVIL + "\n"
    with FakeService(answer(ALIVE)) as service:
        assert Shell(tmp_path).run("ping", "--url", service.url).out == "Alive!\n"
