"""A book that is moved to PostgreSQL and back, as administrators do it, and served in between."""

from pathlib import Path

import pytest

from pwserver.cli import main
from pwserver.errors import ExitCode
from tests.conftest import Start
from tests.support.books_wire import get, password_of, save, saved, versions_of
from tests.support.harness import Peer, Service, eventually
from tests.support.postgres import Postgres
from tests.support.shell import Shell, url_of, write_token

AGAIN = {"request_id": "only once \N{SNOWMAN}"}
FILE = "user_data.db"


def check_all_is_there(service: Service, token: str, shop: str, users: int) -> None:
    """Ask for what was saved before any move, and save once more, as the users-th user."""
    with service.peer() as peer:
        assert peer.authenticate(token)["message"] == "Authenticated!"
        assert eventually(lambda: peer.count() == users, f"there are {users} users")
        assert password_of(peer, "alice") == "second"
        assert password_of(peer, "alice", version=1) == "first"
        assert versions_of(peer, "alice") == [2, 1]
        assert peer.ask(get("alice"))["version"] == 2
        again = peer.ask(save("bob", "b", **AGAIN))
        assert again == saved("bob", 1)
        assert versions_of(peer, "bob") == [1]
        assert peer.ask(save(f"user {users}", "new")) == saved(f"user {users}", 1)
        assert eventually(lambda: peer.count() == users + 1, "one more is counted")
    with service.peer() as peer:
        assert peer.authenticate(shop)["message"] == "Authenticated!"
        assert password_of(peer, "alice") == "of the shop"


def check_passwords_move_in_and_out(service: Service, folder: Path, token: str) -> None:
    """Import a login through the service, and export it again."""
    variables = {"PWSERVER_URL": url_of(service), "PWSERVER_TOKEN_FILE": write_token(folder, token)}
    shell = Shell(folder, variables)
    (folder / "logins.csv").write_text("name,url,username,password,note\nsite,,carol,imported,\n")
    assert shell.run("import", "logins.csv", "--json").record["saved"] == 1
    assert shell.run("export", "book.jsonl", "--yes", "--json").record["users"] >= 5
    assert '"site/carol","password":"imported"' in (folder / "book.jsonl").read_text()


def fill(peer: Peer, shop: str) -> None:
    """Save some users in two books."""
    assert peer.ask(save("alice", "first")) == saved("alice", 1)
    assert peer.ask(save("alice", "second")) == saved("alice", 2)
    assert peer.ask(save("bob", "b", **AGAIN)) == saved("bob", 1)
    assert peer.save()["message"] == "Password saved!"
    assert peer.authenticate(shop)["message"] == "Authenticated!"
    assert peer.ask(save("alice", "of the shop")) == saved("alice", 1)


@pytest.mark.postgres
def test_there_and_back(start: Start, tmp_path: Path, postgres: Postgres) -> None:
    """Passwords, versions, tokens, numbers and request ids are what they were, on either side."""
    url = postgres.new_url()
    service = start()
    token, shop, shell = service.token, service.add_application("shop"), Shell(tmp_path)
    with service.owner() as peer:
        fill(peer, shop)
    in_use = shell.run("move", FILE, url)
    assert (in_use.code, in_use.out) == (ExitCode.FAILED, "")
    assert "a service runs on" in in_use.err
    assert service.stop() == 0

    there = shell.run("move", FILE, url)
    assert there.code == 0, there
    assert f"{url} is the book now, with 4 users, 2 applications" in there.err
    assert "belong to the book: user_data.key" in there.err
    for command in (["serve", "--port", "0"], ["backup", "copy.db"]):
        refused = shell.run(*command)
        assert refused.code == ExitCode.STORE, refused
        assert f"was moved to {url}" in refused.err
    with start("--database", url) as on_server:
        check_all_is_there(on_server, token, shop, 4)
        check_passwords_move_in_and_out(on_server, tmp_path, token)
        assert on_server.stop() == 0
    assert "all in order" in shell.run("check", "--database", url).out

    back = shell.run("move", url, "back.db", "--json").record
    assert back["rows"]["user"] == 6
    refused = shell.run("serve", "--port", "0", "--database", url)
    assert refused.code == ExitCode.STORE
    assert "this database was moved to" in refused.err
    key = ["--key-file", "user_data.key", "--database", "back.db"]
    with start(*key) as on_file:
        check_all_is_there(on_file, token, shop, 6)
        assert on_file.stop() == 0

    asked = shell.type("move", "--unmark", FILE, typed="no\n")
    assert asked.code == ExitCode.DECLINED, asked
    assert shell.run("move", "--unmark", FILE, "--yes").code == 0
    assert "4 users, 2 applications: all in order" in shell.run("check").out


def test_what_is_no_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is said in a sentence, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    somewhere = "postgresql://somebody@127.0.0.1:9/book"
    for arguments, code, sentence in (
        (["a.db"], ExitCode.USAGE, "name the destination as well"),
        (["a.db", "b.db"], ExitCode.USAGE, "both are files"),
        ([somewhere, somewhere], ExitCode.USAGE, "the same database"),
        (["a.db", "--unmark", "b.db"], ExitCode.USAGE, "--unmark is for one database"),
        (["a.db", "postgresql://me:secret@host/book"], ExitCode.USAGE, "has a password in it"),
        ([somewhere, "a.db"], ExitCode.STORE, "the PostgreSQL server cannot be used: "),
        (["a.db", somewhere], ExitCode.STORE, "there is no password book"),
    ):
        assert main.run(["move", *arguments]) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert sentence in said.err
        assert "secret" not in said.err
    assert not list(tmp_path.iterdir())
