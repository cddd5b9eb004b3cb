"""The administrator's commands `app`, `key` and `audit`, as a newcomer and as a script use them."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pwserver.cli import admin, main
from pwserver.tokens import is_token
from tests.conftest import Start
from tests.support.books import contents
from tests.support.books_wire import DENIED, generated_names
from tests.support.harness import Service, eventually
from tests.support.shell import Ran, Shell, client_of, guest_shell_at, write_token
from tests.support.tls import Authority
from workers.book.keyring import create_keyring
from workers.tls.client_certificates import read_key_hash

TOKEN_LINE = re.compile(r"pwserver_[\w-]{43}\n")
GET = {"message": "get_password", "username": "alice"}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in an empty folder, or in that of the service, where a test has one."""
    return Shell(tmp_path)


def token_of(ran: Ran) -> str:
    """Return the token that a command has printed, and nothing with it."""
    assert ran.code == 0, ran
    assert TOKEN_LINE.fullmatch(ran.out)
    return ran.out.strip()


def refused(ran: Ran, code: int) -> str:
    """Return the one sentence with which a command has ended."""
    assert (ran.code, ran.out) == (code, ""), ran
    assert re.fullmatch("pwserver: .+\n", ran.err), ran
    return ran.err


# --- Applications. ---


def test_an_application_can_be_registered_before_the_first_start(
    shell: Shell, start: Start
) -> None:
    """The files are made as `serve` makes them, and said to be; then the token is good."""
    added = shell.run("app", "add", "shop", "--may", "save,get")
    token = token_of(added)
    assert "Made the key file user_data.key. Keep a copy" in added.err
    assert "Made the database user_data.db." in added.err
    assert "Application shop is registered." in added.err
    assert token not in added.err
    with start().peer() as peer:
        reply = peer.authenticate(token)
        assert reply == {"message": "Authenticated!", "application": "shop", "may": ["save", "get"]}


def test_a_script_puts_the_token_into_a_file(service: Service, shell: Shell) -> None:
    """Standard output has the token and no more, so the next command can use it as it is."""
    token = token_of(shell.run("app", "add", "shop", "--may", "save"))
    client = guest_shell_at(service, shell.folder)
    client.variables["PWSERVER_TOKEN_FILE"] = write_token(shell.folder, token)
    saved = client.run("save", "--username", "alice", stdin="one\n")
    assert saved.record == {"username": "alice", "version": 1}
    assert "Denied!" in refused(client.run("get", "alice"), 1)


def test_common_is_the_book_of_those_without_a_token(service: Service, shell: Shell) -> None:
    """Who is registered with it reads what guests have saved; who is not has a book of its own."""
    with service.peer() as guest, service.owner() as owner:
        guest.save("one")
        (generated,) = generated_names(owner)
    for name, flags, message in [
        ("own", [], "Unknown user!"),
        ("all", ["--common"], "return_password"),
    ]:
        token = token_of(shell.run("app", "add", name, "--may", "get", *flags))
        with service.peer() as peer:
            peer.authenticate(token)
            assert peer.ask({**GET, "username": generated})["message"] == message


def test_rotating_gives_a_new_token_and_time_for_the_change(service: Service, shell: Shell) -> None:
    """The old token stays good for as long as is said, and with 0 not at all."""
    first = token_of(shell.run("app", "add", "shop", "--may", "get"))
    second = token_of(shell.run("app", "rotate", "shop"))
    with service.peer() as peer:
        for token in (first, second):
            assert peer.authenticate(token)["message"] == "Authenticated!"
    third = token_of(shell.run("app", "rotate", "shop", "--grace-s", "0"))
    with service.peer() as peer:
        assert peer.authenticate(third)["message"] == "Authenticated!"
        assert peer.authenticate(second) == DENIED
    assert len({first, second, third}) == 3


def test_revoking_takes_the_token_from_open_connections_too(service: Service, shell: Shell) -> None:
    """They may do nothing any more; a new token opens the same book again."""
    token = token_of(shell.run("app", "add", "shop", "--may", "save,get"))
    with service.peer() as peer:
        peer.authenticate(token)
        peer.ask({"message": "save_password", "password": "one", "username": "alice"})
        assert peer.ask(GET)["password"] == "one"
        done = shell.run("app", "revoke", "shop")
        assert (done.code, done.out, done.err) == (0, "", "Application shop is revoked.\n")
        eventually(lambda: peer.ask(GET) == DENIED, "the connection has no rights", 1.5)
        assert peer.authenticate(token) == DENIED
    again = token_of(shell.run("app", "rotate", "shop"))
    with service.peer() as peer:
        peer.authenticate(again)
        assert peer.ask(GET)["password"] == "one"
        assert peer.authenticate(token) == DENIED, "a revoked token stays so"


def test_the_list_has_everything_but_tokens(shell: Shell) -> None:
    """A line for each application for programs, a table for people, nothing to log in with."""
    tokens = [
        token_of(shell.run("app", "add", "shop", "--may", "delete,save", "--common")),
        token_of(shell.run("app", "add", "desk", "--may", "get")),
    ]
    shell.run("app", "revoke", "desk")
    listed = shell.run("app", "list")
    shop, desk = listed.records
    assert shop.pop("added").endswith("Z")
    assert shop == {
        "name": "shop",
        "may": ["save", "delete"],
        "book": "common",
        "state": "active",
        "expires": None,
        "from": [],
        "users_max": None,
        "saves_per_s": None,
        "connections_max": None,
        "old_token_until": None,
        "certificate": None,
    }
    assert (desk["book"], desk["state"]) == ("its own", "revoked")
    table = shell.type("app", "list").out
    assert re.search(r"shop +save, delete +common +active", table)
    assert not [token for token in tokens if token in listed.out + table]


def test_a_token_is_bound_when_it_is_made(shell: Shell, authority: Authority) -> None:
    """For how long, to where it is used, and to a certificate; the list says it, and when it has
    expired."""
    issued = authority.issue("any name")
    bounds = ["--expires", "90d", "--from", "10.0.0.0/8,unix", "--certificate", str(issued.cert)]
    token_of(shell.run("app", "add", "shop", "--may", "get", *bounds))
    shop = shell.run("app", "list").record
    expires, added = (datetime.fromisoformat(shop[name]) for name in ("expires", "added"))
    assert abs(expires - added - timedelta(days=90)) <= timedelta(seconds=1)
    assert (shop["from"], shop["state"]) == (["10.0.0.0/8", "unix"], "active")
    assert shop["certificate"] == read_key_hash(str(issued.cert)).hex()
    token_of(shell.run("app", "rotate", "shop", "--now"))
    again = shell.run("app", "list").record
    assert again["expires"] >= shop["expires"], "the new one is good for as long"
    assert (again["certificate"], again["old_token_until"]) == (None, None)
    token_of(shell.run("app", "rotate", "shop", "--expires", "1s"))
    eventually(lambda: shell.run("app", "list").record["state"] == "expired", "it expires")
    token_of(shell.run("app", "rotate", "shop", "--expires", "never"))
    last = shell.run("app", "list").record
    assert (last["expires"], last["state"]) == (None, "active")


def test_bounds_and_quotas_are_changed(shell: Shell, authority: Authority) -> None:
    """Those that are given, and no others; the sentence says what was set."""
    token_of(shell.run("app", "add", "shop", "--may", "get", "--from", "unix"))
    quotas = ["--users-max", "5000", "--saves-per-s", "20", "--connections-max", "8"]
    said = shell.run("app", "set", "shop", *quotas).err
    assert said == (
        "Application shop has users-max 5,000, has saves-per-s 20, has connections-max 8.\n"
    )
    shop = shell.run("app", "list").record
    assert [shop[name] for name in ("users_max", "saves_per_s", "connections_max")] == [5000, 20, 8]
    assert (shop["may"], shop["from"]) == (["get"], ["unix"])
    certificate = str(authority.issue("any name").cert)
    shell.run("app", "set", "shop", "--from", "2001:db8::/32", "--certificate", certificate)
    shop = shell.run("app", "list").record
    assert (shop["from"], shop["users_max"]) == (["2001:db8::/32"], 5000)
    assert shop["certificate"] == read_key_hash(certificate).hex()
    nothing = ["--from", "none", "--certificate", "none", "--users-max", "0", "--saves-per-s", "0"]
    assert shell.run("app", "set", "shop", *nothing, "--json").record == {
        "name": "shop",
        "from": [],
        "certificate": None,
        "users_max": None,
        "saves_per_s": None,
    }
    shop = shell.run("app", "list").record
    assert (shop["from"], shop["certificate"], shop["users_max"]) == ([], None, None)


def test_bounds_that_are_none_are_refused(shell: Shell) -> None:
    """One sentence, exit code 2, and nothing was changed."""
    token_of(shell.run("app", "add", "shop", "--may", "get"))
    before = shell.run("app", "list").out
    for arguments, words in (
        (["set", "shop"], "nothing is to be changed: give one of the flags"),
        (["set", "shop", "--users-max", "-1"], "users-max must be from 0"),
        (["set", "shop", "--from", "everywhere"], "'everywhere' is no network"),
        (["set", "shop", "--certificate", "/none"], "certificate /none cannot be read"),
        (["rotate", "shop", "--expires", "90"], "expires is '90'; it must be a number of s, m, h"),
        (["add", "desk", "--may", "get", "--expires", "999999999w"], "up to a hundred years"),
    ):
        assert words in refused(shell.run("app", *arguments), 2)
    assert shell.run("app", "list").out == before


def test_a_token_on_a_terminal_stands_on_a_line_of_its_own(shell: Shell) -> None:
    """Behind the sentence that says that it is shown only now."""
    shown = shell.type("app", "add", "shop", "--may", "get").out.splitlines()
    assert shown[-2] == "Application shop is registered. Its token is shown only now:"
    assert is_token(shown[-1])


@pytest.mark.parametrize(
    "may", ["", "fly", "save,fly", "SAVE", ",", "save;get"], ids=lambda may: may or "nothing"
)
def test_rights_that_are_none_are_refused(shell: Shell, may: str) -> None:
    """The sentence lists those that there are, and nothing was made."""
    sentence = refused(shell.run("app", "add", "shop", "--may", may), 2)
    assert "one or more of save, count, get, verify, list, delete" in sentence
    assert list(shell.folder.iterdir()) == []


def test_rights_may_be_said_twice_and_in_any_order(shell: Shell) -> None:
    """What counts is which they are."""
    token_of(shell.run("app", "add", "shop", "--may", "get, save,get"))
    assert shell.run("app", "list").record["may"] == ["save", "get"]


@pytest.mark.parametrize("name", ["", " shop", "a\nb", "n" * 129])
def test_a_name_that_nobody_can_read_is_refused(shell: Shell, name: str) -> None:
    """By the rules for usernames; nobody is registered."""
    shell.run("setup")
    assert '"name" ' in refused(shell.run("app", "add", name, "--may", "get"), 2)
    assert shell.run("app", "list").out == ""


def test_one_name_is_one_application(shell: Shell) -> None:
    """A second of the name is refused, however it was typed, and the first keeps its token."""
    token_of(shell.run("app", "add", "Zoë", "--may", "get"))
    again = shell.run("app", "add", "Zoe\N{COMBINING DIAERESIS}", "--may", "save")
    assert "there is an application 'Zoë' already" in refused(again, 1)
    assert shell.run("app", "list").record["may"] == ["get"]
    token_of(shell.run("app", "rotate", "Zoe\N{COMBINING DIAERESIS}"))


@pytest.mark.parametrize("command", ["rotate", "revoke"])
def test_an_application_that_is_not_there_is_said_plainly(shell: Shell, command: str) -> None:
    """One sentence, exit code 1, and no record of something that was not done."""
    shell.run("setup")
    assert "there is no application 'nobody'." in refused(shell.run("app", command, "nobody"), 1)
    assert not (shell.folder / "user_data.audit").exists()


def test_programs_get_a_record_from_every_command(shell: Shell) -> None:
    """With --json each command of applications and keys prints one object to standard output."""
    added, rotated = (
        shell.run("app", *words, "--json").records[0]
        for words in (["add", "shop", "--may", "save"], ["rotate", "shop"])
    )
    assert added["name"] == rotated["name"] == "shop"
    assert all(is_token(each["token"]) for each in (added, rotated))
    for words, record in [
        (["app", "set", "shop", "--may", "get,save"], {"name": "shop", "may": ["save", "get"]}),
        (["app", "revoke", "shop"], {"name": "shop", "revoked": True}),
        (["app", "remove", "shop", "--yes"], {"name": "shop", "removed": True, "users": 0}),
        (["key", "add"], {"key": 2, "added": True}),
        (["key", "rotate"], {"key": 2, "seals": "everything"}),
        (["key", "retire", "1"], {"key": 1, "retired": True}),
        (["key", "list"], {"key": 2, "state": "seals", "passwords": 0}),
    ]:
        ran = shell.run(*words, "--json")
        assert (ran.code, ran.records) == (0, [record]), ran


# --- Keys. ---


def test_a_key_is_changed_step_by_step(service: Service, shell: Shell) -> None:
    """Added, rotated to and retired beside the running service; each step says what comes next."""
    with client_of(service) as book, book.pipeline() as many:
        for number in range(300):
            many.save_password(f"{number}", username=f"{number:03}")
    assert shell.run("key", "list").record == {"key": 1, "state": "seals", "passwords": 300}
    assert "then run `pwserver key rotate`" in shell.run("key", "add").err
    assert [key["state"] for key in shell.run("key", "list").records] == ["seals", "unused"]
    rotated = shell.run("key", "rotate")
    assert (rotated.code, rotated.out) == (0, "")
    assert rotated.err == "Every password is sealed with key 2.\n"
    assert shell.run("key", "list").records == [
        {"key": 1, "state": "unused", "passwords": 0},
        {"key": 2, "state": "seals", "passwords": 300},
    ]
    assert "Key 1 is retired." in shell.run("key", "retire", "1").err
    assert shell.run("key", "list").record["key"] == 2
    with client_of(service) as book:
        assert [book.get_password(f"{n:03}").password for n in (0, 299)] == ["0", "299"]


def test_a_rotation_shows_a_person_how_far_it_is(service: Service, shell: Shell) -> None:
    """With a bar on a terminal, which is not there in a script's output."""
    with client_of(service) as book, book.pipeline() as many:
        for _ in range(200):
            many.save_password("x")
    shell.run("key", "add")
    shown = shell.type("key", "rotate").out
    assert re.search(r"Resealing .*200/200", shown), shown
    assert shown.endswith("Every password is sealed with key 2.\n")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        ("1", 1, "key 1 is the one that passwords are sealed with"),
        ("7", 1, "there is no key 7 in user_data.key"),
        ("one", 2, "int"),
    ],
)
def test_a_key_that_cannot_be_retired_stays(
    shell: Shell, number: str, code: int, words: str
) -> None:
    """The sentence says why, and the key file is as it was."""
    shell.run("setup")
    shell.run("key", "add")
    before = (shell.folder / "user_data.key").read_bytes()
    assert words in refused(shell.run("key", "retire", number), code)
    assert (shell.folder / "user_data.key").read_bytes() == before


def test_keys_are_in_the_key_file_alone(shell: Shell) -> None:
    """No command prints one, and none has a flag or a variable for one."""
    shell.run("setup")
    printed = [shell.run("key", *arguments) for arguments in (["add"], ["list"], ["rotate"])]
    keys = (shell.folder / "user_data.key").read_text().split()[2::3]
    assert len(keys) == 3
    others = [data for name, data in contents(shell.folder).items() if name != "user_data.key"]
    for key in keys:
        assert not [ran for ran in printed if key in ran.out + ran.err]
        assert not [data for data in others if key.encode() in data]


# --- What is common to all of them. ---

ALL_COMMANDS = [
    ["app", "add", "shop", "--may", "get"],
    ["app", "list"],
    ["app", "rotate", "owner"],
    ["app", "revoke", "owner"],
    ["key", "list"],
    ["key", "add"],
    ["key", "rotate"],
    ["key", "retire", "1"],
]


def lose(path: Path) -> None:
    """Take a file away."""
    path.unlink()


def open_to_all(path: Path) -> None:
    """Let others read a file."""
    path.chmod(0o644)


def exchange(path: Path) -> None:
    """Put another key file in place of one."""
    path.unlink()
    create_keyring(path)


def damage(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[:60])


@pytest.fixture(scope="module", params=[False, True], ids=["stopped", "running"])
def registered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Return a service with an application, which runs or has been stopped."""
    with Service(tmp_path_factory.mktemp("registered")) as service:
        assert service.wait_until_listening().token
        if not request.param:
            service.stop()
        yield service


@pytest.mark.parametrize(
    ("mishap", "words"),
    [
        (lose, "there is no key file user_data.key"),
        (open_to_all, "Run: chmod 600 user_data.key"),
        (exchange, "the key is not the one that user_data.db was sealed with"),
        (damage, "user_data.key is not a key file of pwserver, or it is damaged"),
    ],
    ids=["lost", "open to all", "another", "damaged"],
)
def test_without_the_right_key_nothing_is_done(
    registered: Service, mishap: Callable[[Path], None], words: str
) -> None:
    """One sentence that says what to do, exit code 5, and no file was changed."""
    shell, key = Shell(registered.folder), registered.key_file.read_bytes()
    mishap(registered.key_file)
    before = {name: data for name, data in contents(shell.folder).items() if name != "stderr"}
    for command in ALL_COMMANDS:
        assert words in refused(shell.run(*command), 5)
    after = contents(shell.folder)
    assert {name: after[name] for name in before} == before
    if registered.process.poll() is None:
        with registered.peer() as peer:
            assert peer.authenticate(registered.token)["message"] == "Authenticated!"
    registered.key_file.write_bytes(key)
    registered.key_file.chmod(0o600)


def test_without_a_record_rights_are_taken_away_and_not_given(shell: Shell) -> None:
    """What is given waits for the record; what is taken away does not, and a warning says so."""
    shell.run("app", "add", "owner", "--may", "get")
    unwritten = "the audit record no such folder/audit cannot be written"
    failed = shell.run("app", "add", "x", "--may", "get", "--audit-file", "no such folder/audit")
    assert (failed.code, failed.out) == (5, "")
    assert f"{unwritten}. Nothing was done." in failed.err
    revoked = shell.run("app", "revoke", "owner", "--audit-file", "no such folder/audit")
    assert revoked.code == 0
    said = " ".join(revoked.err.split())
    assert f"WARNING: {unwritten}, so nothing in it says that `app revoke` was done." in said
    (row,) = shell.run("app", "list").records
    assert (row["name"], row["state"]) == ("owner", "revoked")


def test_another_book_is_named_as_for_the_service(shell: Shell) -> None:
    """By flag, environment or settings file: a command never works on a book by mistake."""
    (shell.folder / "pwserver.toml").write_text('database = "file.db"\n')
    shell.run("app", "add", "file", "--may", "get")
    shell.run("app", "add", "flag", "--may", "get", "--database", "flag.db")
    shell.variables["PWSERVER_DATABASE"] = "variable.db"
    shell.run("app", "add", "variable", "--may", "get")
    for name in ("file", "flag", "variable"):
        assert shell.run("app", "list", "--database", f"{name}.db").record["name"] == name
    assert not (shell.folder / "user_data.db").exists()


@pytest.mark.parametrize(
    "command", [["app", "add", "shop", "--may", "get"], ["setup"]], ids=lambda command: command[0]
)
def test_a_folder_that_is_not_there_is_said_plainly(shell: Shell, command: list[str]) -> None:
    """One sentence, and exit code 5, of those commands that make what is not there."""
    sentence = refused(shell.run(*command, "--database", "nowhere/user_data.db"), 5)
    assert re.search(r"nowhere/user_data\.\w+ cannot be \w+: No such file or directory", sentence)


@pytest.mark.parametrize("command", ALL_COMMANDS[1:], ids=" ".join)
def test_where_there_is_no_book_none_is_made(shell: Shell, command: list[str]) -> None:
    """Who is in the wrong folder is told so, and finds nothing new in it."""
    assert "there is no password book user_data.db yet" in refused(shell.run(*command), 5)
    assert list(shell.folder.iterdir()) == []


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_record_that_is_not_there_is_said_plainly(shell: Shell, command: str) -> None:
    """Nothing is made up for it, and an empty answer would look like a clean one."""
    shell.run("setup")
    sentence = refused(shell.run("audit", command), 5)
    assert "there is no audit record user_data.audit." in sentence


SUBCOMMANDS = [
    (apps.name[0], name) for apps in admin.APPS for name in apps if not name.startswith("-")
]


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_every_command_and_every_flag_is_explained(
    command: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--help` has a sentence for each; wrong usage is one sentence and exit code 2."""
    monkeypatch.setenv("COLUMNS", "300")
    assert main.run([*command, "--help"]) == 0
    usage, _, does, _, *panels = capsys.readouterr().out.splitlines()
    assert usage.startswith(f"Usage: pwserver {' '.join(command)}")
    assert re.match(r"[A-Z].*\.", does)
    entries = [line.strip("│* ") for line in panels if line.startswith("│")]
    assert any(entry.startswith("--key-file ") for entry in entries)
    for entry in entries:
        assert re.match(r"\S+( [A-Z]+(\.\.\.)?)?  +[A-Z].*\.", entry), entry
    assert main.run([*command, "--no-such-flag"]) == 2
    assert re.fullmatch("pwserver: .+\n", capsys.readouterr().err)
