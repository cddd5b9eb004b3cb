"""Makes a book with something of everything, to be kept: later releases must be able to read it.

    python -m tests.support.release FOLDER

The folder then has the files of a service that has stopped, and `known.json`, which says what is in
the book. It is made once by each release whose database differs from the one before, with FOLDER
`tests/service/operation/releases/VERSION`. Its tokens and keys are of no use to anybody.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pwserver import __version__
from tests.support.harness import Peer, Service
from tests.support.shell import Shell

PASSWORDS = {
    "alice": ["first", "second", "third"],
    "b\u00f6b": ["\u2603" * 10],
    "long": ["x" * 400],
}
"""The passwords of each name, oldest first."""

ONCE = {"message": "save_password", "username": "once", "password": "x", "request_id": "order 1"}
LABELS = {"message": "label_user", "username": "alice", "labels": ["admin", "hr"]}


def make(folder: Path) -> None:
    """Make the book in a folder that is there."""
    shell = Shell(folder)
    with Service(folder).wait_until_listening() as service:
        tokens = {name: service.add_application(name) for name in ("shop", "gone")}
        tokens["web"] = service.add_application("web", common=True)
        service.peer().save("of a guest")
        web, shop = (_as(service, tokens[name]) for name in ("web", "shop"))
        for name, passwords in PASSWORDS.items():
            for password in passwords:
                _save(web, name, password)
        web.ask(LABELS)
        once = web.ask(ONCE)
        _save(shop, "alice", "of the shop")
        for command in (["app", "remove", "gone", "--yes"], ["key", "add"]):
            done = shell.run(*command)
            assert done.code == 0, done
    with Service(folder).wait_until_listening() as service:  # it seals with the new key
        web = _as(service, tokens["web"])
        _save(web, "new key", "sealed with it")
        users = web.count()
    for name in ("stderr", "token"):
        (folder / name).unlink(missing_ok=True)
    known = {
        "release": __version__,
        "tokens": tokens,
        "users": users,
        "passwords": PASSWORDS | {"new key": ["sealed with it"]},
        "labels": LABELS["labels"],
        "once": once,
    }
    (folder / "known.json").write_text(json.dumps(known, indent=1) + "\n")


def _as(service: Service, token: str) -> Peer:
    peer = service.peer()
    assert peer.authenticate(token)["message"] == "Authenticated!"
    return peer


def _save(peer: Peer, name: str, password: str) -> None:
    saved: Any = peer.ask({"message": "save_password", "username": name, "password": password})
    assert saved["message"] == "Password saved!", saved


if __name__ == "__main__":
    make(Path(sys.argv[1]))
