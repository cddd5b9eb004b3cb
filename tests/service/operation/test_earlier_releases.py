"""A book that an earlier release has made is read by this one, and nothing in it is lost.

`tests/support/release.py` has made the books in `releases/`, each with the release whose name its
folder has.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.support.release import ONCE
from tests.support.shell import Shell

RELEASES = sorted(path.name for path in (Path(__file__).parent / "releases").iterdir())


@pytest.fixture(params=RELEASES)
def known(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return what is in the book of a release, whose files are in the test's folder."""
    folder = Path(__file__).parent / "releases" / request.param
    for path in folder.iterdir():
        copied = shutil.copyfile(path, tmp_path / path.name)
        copied.chmod(0o600)
    return json.loads((tmp_path / "known.json").read_text())


def test_all_of_an_earlier_book_is_there(known: Any, start: Start) -> None:
    """Passwords with their versions and labels, tokens, books, numbers and requests."""
    service = start()
    with service.peer() as web, service.peer() as shop, service.peer() as gone:
        for peer, name in ((web, "web"), (shop, "shop")):
            assert peer.authenticate(known["tokens"][name])["message"] == "Authenticated!"
        assert gone.authenticate(known["tokens"]["gone"])["message"] == "Denied!"
        assert web.count() == known["users"]
        for name, passwords in known["passwords"].items():
            get = {"message": "get_password", "username": name}
            for version, password in enumerate(passwords, 1):
                assert web.ask({**get, "version": version})["password"] == password
            assert web.ask(get)["password"] == passwords[-1]
        alice = {"username": "alice"}
        assert shop.ask({"message": "get_password", **alice})["password"] == "of the shop"
        listed = web.ask({"message": "list_users", "prefix": "alice"})["users"]
        assert [user["labels"] for user in listed] == [known["labels"]]
        assert web.ask(ONCE) == known["once"], "it was saved already"
        assert web.count() == known["users"]
        saved = web.ask({"message": "save_password", "password": "fourth", **alice})
        assert saved["version"] == len(known["passwords"]["alice"]) + 1


def test_an_earlier_book_is_in_order(known: Any, tmp_path: Path) -> None:
    """Each row opens, and the audit record is whole."""
    shell = Shell(tmp_path)
    for command in (["check"], ["audit", "verify"], ["app", "list"], ["key", "list"]):
        done = shell.run(*command)
        assert done.code == 0, (known["release"], done)
