"""Applications that are changed or removed, beside a service or without one."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.books_wire import DENIED
from tests.support.engines import BOTH_ENGINES, run_sql
from tests.support.harness import PATIENCE_S, Service, eventually
from tests.support.processes import launched
from tests.support.shell import ENVIRONMENT, Shell

pytestmark = BOTH_ENGINES


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in the folder of the service."""
    return Shell(tmp_path)


def add(shell: Shell, name: str, may: str = "save,get,list,count") -> str:
    """Register an application; return its token."""
    return str(shell.run("app", "add", name, "--may", may, "--json").records[0]["token"])


def fill(service: Service, token: str, users: int) -> None:
    """Save users into an application's book, every second with a name and a request id."""
    with service.peer() as peer:
        peer.authenticate(token)
        for first in range(0, users, 500):
            numbers = range(first, min(first + 500, users))
            requests = [
                {"message": "save_password", "password": "x"}
                | ({"username": f"{n}", "request_id": f"{n}"} if n % 2 else {})
                for n in numbers
            ]
            peer.send(*requests)
            for _ in requests:
                assert json.loads(peer.line())["message"] == "Password saved!"


def number_of_users(service: Service) -> int:
    """Return how many users the service says there are."""
    with service.peer() as peer:
        return peer.count()


@contextmanager
def saving(service: Service, token: str | None) -> Iterator[list[dict[str, object]]]:
    """Save from a connection until the end, with a token also under names; give the replies."""
    stop, replies = threading.Event(), list[dict[str, object]]()

    def save() -> None:
        with suppress(OSError, ValueError), service.peer() as peer:
            if token is not None:
                peer.authenticate(token)
            while not stop.is_set():
                number = len(replies)
                named = {"username": f"{number % 50}"} if token and number % 2 else {}
                replies.append(peer.ask({"message": "save_password", "password": "x", **named}))

    thread = threading.Thread(target=save)
    thread.start()
    try:
        yield replies
    finally:
        stop.set()
        thread.join()


def test_rights_are_changed_on_open_connections_too(service: Service, shell: Shell) -> None:
    """Within a second, in the record, and with the token that it has."""
    token = add(shell, "shop", "save,count")
    with service.peer() as peer:
        peer.authenticate(token)
        assert peer.ask({"message": "list_users"}) == DENIED
        changed = shell.run("app", "set", "shop", "--may", "list,count", "--json")
        assert changed.record == {"name": "shop", "may": ["count", "list"]}
        listed = {"message": "list_users"}
        eventually(lambda: peer.ask(listed)["message"] == "return_users", "it may list", 1.5)
        assert peer.save()["message"] == "Denied!"
    recorded = shell.run("audit", "show", "--action", "administration").records[-1]
    assert (recorded["application"], recorded["more"]) == ("shop", "command app set")
    assert shell.run("app", "set", "nobody", "--may", "get").code == 1
    assert shell.run("app", "set", "shop", "--may", "fly").code == 2


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_an_application_is_removed_with_its_book_alone(
    start: Start, shell: Shell, running: bool
) -> None:
    """The users of its book go, those of others stay, and the number of users is exact."""
    service = start()
    token, other = add(shell, "shop"), add(shell, "other")
    fill(service, token, 700)
    fill(service, other, 10)
    fill(service, service.token, 10)
    if not running:
        service.stop()
    removed = shell.run("app", "remove", "shop", "--yes", "--json")
    assert removed.record == {"name": "shop", "removed": True, "users": 700}
    if running:
        assert number_of_users(service) == 20
        with service.peer() as peer:
            assert peer.authenticate(token)["message"] == "Denied!"
        service.stop()
    assert shell.run("check").out.startswith("20 users, 2 applications")
    names = [each["name"] for each in shell.run("app", "list").records]
    assert "other" in names
    assert "shop" not in names


def test_nothing_is_removed_without_a_yes(service: Service, shell: Shell) -> None:
    """The question has the number of users; a no, or nobody to ask, changes nothing."""
    fill(service, add(shell, "shop"), 3)
    question = "Remove the application 'shop' and the 3 users of its own book? [y/N] "
    declined = shell.type("app", "remove", "shop", typed="n\n")
    assert declined.code == 9
    assert declined.out.startswith(question)
    refused = shell.run("app", "remove", "shop", stdin="y\n")
    assert (refused.code, refused.out) == (2, "")
    assert number_of_users(service) == 3
    assert shell.type("app", "remove", "shop", typed="y\n").code == 0
    assert number_of_users(service) == 0
    assert shell.run("app", "remove", "shop", "--yes").code == 1


def test_a_number_is_never_another_applications(service: Service, shell: Shell) -> None:
    """What is put back from an old copy into a book that was removed belongs to nobody new."""
    fill(service, add(shell, "shop"), 3)
    before = set(run_sql(service, "SELECT id FROM application"))
    shell.run("app", "remove", "shop", "--yes")
    token = add(shell, "shop")
    fill(service, token, 2)
    books = set(run_sql(service, 'SELECT DISTINCT book FROM "user"'))
    assert books == {max(run_sql(service, "SELECT id FROM application"))}
    assert len(books) == 1
    assert not books & before


def test_the_common_book_outlives_its_applications(service: Service, shell: Shell) -> None:
    """Who is registered for it is removed alone."""
    token = str(
        shell.run("app", "add", "all", "--may", "save", "--common", "--json").records[0]["token"]
    )
    fill(service, token, 5)
    assert shell.run("app", "remove", "all", "--yes", "--json").record["users"] == 0
    assert number_of_users(service) == 5
    assert "all" not in [each["name"] for each in shell.run("app", "list").records]


def test_saves_go_on_while_an_application_is_removed(service: Service, shell: Shell) -> None:
    """Others' are all done; its own are denied in the end, and leave nobody behind."""
    token = add(shell, "shop")
    fill(service, token, 3000)
    with saving(service, None) as others, saving(service, token) as own:
        eventually(lambda: len(others) > 5 and len(own) > 5, "both save")
        assert shell.run("app", "remove", "shop", "--yes").code == 0
        eventually(lambda: own[-1]["message"] == "Denied!", "its own are denied", 1.5)
    assert {reply["message"] for reply in others} == {"Password saved!"}
    assert {reply["message"] for reply in own} == {"Password saved!", "Denied!"}
    saved = number_of_users(service)
    service.stop()
    checked = shell.run("check", "--json").record
    assert (checked["users"], checked["findings"]) == (saved, [])


def test_a_removal_that_was_interrupted_goes_on(start: Start, shell: Shell) -> None:
    """Killed at any moment, it is completed by the service, or by the same command."""
    service = start()
    fill(service, add(shell, "shop"), 3000)
    service.stop()
    with launched(
        [sys.executable, "-m", "pwserver", "app", "remove", "shop", "--yes"],
        cwd=shell.folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        removed = "SELECT id FROM application WHERE may = 'removed'"
        eventually(lambda: run_sql(service, removed), "it has begun")
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    service = start()
    eventually(lambda: number_of_users(service) == 0, "the service has gone on with it")
    again = shell.run("app", "remove", "shop", "--yes")
    assert (again.code, number_of_users(service)) in {(0, 0), (1, 0)}, "or it was done already"
    assert "shop" not in [each["name"] for each in shell.run("app", "list").records]
