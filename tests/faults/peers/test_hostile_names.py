"""Hostile names: whatever is in a username, the console and the logs stay a clean line a record."""

import json
import re
import sqlite3
from contextlib import closing

from tests.faults.canary import CANARY
from tests.faults.conftest import Start
from tests.support.books_wire import ask_all, delete, get, label, names, save, verify
from tests.support.harness import eventually
from tests.support.shell import Shell

HOSTILE = {
    "an escape": "\x1b[2J\x1b[31mroot",
    "a title": "\x1b]0;owned\x07",
    "an 8-bit escape": "\x9b31m",
    "a line break": "alice\n7\tbob\t2026-01-01T00:00:00Z",
    "a return": "alice\rbob  ",
    "a tab": "alice\tbob",
    "a bidi mark": "alice\u202eecila",
    "an isolate": "\u2066alice\u2069",
    "a line separator": "alice\u2028bob",
    "a zero width space": "ali\u200bce",
    "a tag": "alice\U000e0041",
    "NUL": "alice\0bob",
    "a lone surrogate": "alice\ud800",
    "a backspace": "alice\b\b\b\b\bmallo",
}
NO_TEXTS = ("NUL", "a lone surrogate")
"""What cannot be written into a database as text."""

LINE = re.compile(r"\d+\t[^\t]*\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [A-Z]+ [a-z]+( \d+)?: .+")


def assert_clean(text: str, form: re.Pattern[str]) -> None:
    """Fail unless every line has a form, and nothing in it that controls a terminal."""
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        assert form.fullmatch(line), line
        assert line.replace("\t", "").isprintable(), line


def test_a_hostile_name_is_refused(start: Start) -> None:
    """In every command: the reply does not repeat it, and no line that is written has it."""
    service = start()
    with service.owner() as peer:
        for name in HOSTILE.values():
            asked = [
                save(name, CANARY),
                get(name),
                verify(name, CANARY),
                label("alice", name),
                delete(name),
                {"message": name},
            ]
            for reply in ask_all(peer, asked):
                assert reply["message"] == "Invalid message!"
                assert json.dumps(name)[1:-1] not in json.dumps(reply)
        peer.ask(save("the last", CANARY))
        assert peer.count() == 1
    eventually(lambda: b"the last" in service.printed, "it is listed")
    assert_clean(service.printed.decode(), LINE)
    assert_clean(service.stderr, LOG_LINE)
    record = (service.folder / "user_data.audit").read_text()
    assert all(line.isprintable() for line in record.removesuffix("\n").split("\n"))


def test_a_name_that_a_forger_wrote_stays_on_its_line(start: Start) -> None:
    """Written into the database by somebody, it is shown, listed and logged as harmless text."""
    service = start()
    forged = {what: name for what, name in HOSTILE.items() if what not in NO_TEXTS}
    with service.owner() as peer:
        ask_all(peer, [save(name, CANARY) for name in (*forged, "the last")])
        with closing(sqlite3.connect(service.database)) as forger, forger:
            change = "UPDATE user SET username = ? WHERE username = ?"
            forger.executemany(change, [(name, what) for what, name in forged.items()])
        assert peer.count() == len(forged) + 1
        eventually(lambda: b"the last" in service.printed, "they are listed")
        assert len(names(peer)) == len(forged) + 1
    assert service.printed.count(b"\n") >= len(forged) + 1
    assert_clean(service.printed.decode(), LINE)
    assert_clean(service.stderr, LOG_LINE)
    ran = Shell(service.folder, {"PWSERVER_URL": service.url}).run("list")
    assert (ran.code, ran.out.count("\n")) == (0, len(forged) + 1)
