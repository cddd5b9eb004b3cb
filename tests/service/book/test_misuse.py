"""Each command and each way to misuse it: one table, by the fields that commands have.

A new field, or a new command without an example, fails here until it has its rows.
"""

import itertools
import json
from typing import Any

import pytest

from pwserver.wire.messages import REQUESTS, SCRAM_LENGTH_MAX
from tests.support.books_wire import (
    ALIVE,
    ALTERNATIVES,
    EXAMPLES,
    PING,
    Request,
    ask_all,
    get,
    listing,
    required,
    save,
)
from tests.support.harness import Peer, Service

CANARY = "hunter2"
NO_TEXT: list[Any] = [5, 1.5, True, None, [CANARY], {CANARY: CANARY}]
NO_NUMBER: list[Any] = ["1", CANARY, 1.5, True, None, [1], {}, 2**53, 2**64, 10**30, -(10**30)]
NOT_UNICODE = [f"{CANARY}\0", "\0", f"{CANARY}\ud800", f"\udc00{CANARY}", f"{CANARY}\ude00\ud83d"]
INVISIBLE = [
    f"{CANARY}\n",
    f"{CANARY}\r\n{CANARY}",
    f"{CANARY}\x1b[31m",
    f"{CANARY}\x7f",
    f"{CANARY}\x85",
    f"{CANARY}\N{SOFT HYPHEN}",
    f"{CANARY}\N{ZERO WIDTH SPACE}",
    f"{CANARY}\N{ZERO WIDTH JOINER}",
    f"{CANARY}\N{RIGHT-TO-LEFT OVERRIDE}",
    f"{CANARY}\N{FIRST STRONG ISOLATE}",
    f"\N{ZERO WIDTH NO-BREAK SPACE}{CANARY}",
    f"{CANARY}\N{LINE SEPARATOR}{CANARY}",
    f"{CANARY}\N{PARAGRAPH SEPARATOR}{CANARY}",
    f"{CANARY}\N{LANGUAGE TAG}",
    f"{CANARY}\ue000",  # private
    f"{CANARY}\U0010fffd",  # private, of the last plane
    f"{CANARY}\u0378",  # not assigned
    f"{CANARY}\ufdd0",  # never to be assigned
]
AROUND = [f" {CANARY}", f"{CANARY} ", " ", f"{CANARY}\N{NO-BREAK SPACE}", f"\u3000{CANARY}"]
NO_NAME = [*NO_TEXT, *NOT_UNICODE, *INVISIBLE, *AROUND, ""]


def long(length: int) -> str:
    """Return a text of so many characters."""
    return (CANARY * length)[:length]


MISUSES: dict[str, list[Any]] = {
    "password": [*NO_TEXT, *NOT_UNICODE, "", long(4097)],
    "username": [*NO_NAME, long(129), "\N{GRINNING FACE}" * 129],
    "version": [*NO_NUMBER, 0, -1],
    "if_version": [*NO_NUMBER, -1],
    "labels": [
        *(5, 1.5, True, None, CANARY, {CANARY: CANARY}),
        *([text] for text in (*NO_NAME, long(65))),
        ["fine", *[f"{CANARY}{n}" for n in range(16)]],
        [[CANARY]],
    ],
    "request_id": [*NO_TEXT, *NOT_UNICODE, "", long(129)],
    "after": [*NO_TEXT, *NOT_UNICODE, long(129)],
    "prefix": [*NO_TEXT, *NOT_UNICODE, long(129)],
    "limit": [*NO_NUMBER, 0, -1, 1001],
    "label": [*NO_NAME, long(65)],
    "length": [*NO_NUMBER, 3, 257],
    "alphabet": [*NO_TEXT, *NOT_UNICODE, *INVISIBLE, "", "h", "hh", "h" * 256, long(257)],
    "token": [*NO_TEXT, *NOT_UNICODE, "", long(257)],
    "scram": [*NO_TEXT, *NOT_UNICODE, "", CANARY, long(SCRAM_LENGTH_MAX + 1)],
    "id": [1.5, True, None, [CANARY], {}, long(129), *NOT_UNICODE],
}
"""Of each field, the values that are refused, whatever the command."""

COMMANDS = {str(kind.__struct_config__.tag): kind for kind in REQUESTS}
CASES = [(name, field) for name, kind in COMMANDS.items() for field in kind.__struct_fields__]


def check_refused(line: bytes, value: object) -> Request:
    """Check a reply to a misused field: one plain sentence that does not repeat the value."""
    reply: Request = json.loads(line)
    assert reply["message"] == "Invalid message!", (reply, value)
    sentence = reply["error"]
    assert sentence.endswith((".", "?")), sentence
    assert sentence[:1].isupper() or sentence[:1] == '"', sentence
    assert sentence.isprintable(), sentence
    assert CANARY not in line.decode()
    if isinstance(value, int) and abs(value) > 300:
        assert str(value) not in sentence
    return reply


def test_the_table_is_whole() -> None:
    """Each command has an example with all its fields, and each field its misuses."""
    assert set(EXAMPLES) == set(COMMANDS)
    assert {field for _, field in CASES} == set(MISUSES)
    for name, kind in COMMANDS.items():
        fields = {"message", *kind.__struct_fields__} - set(ALTERNATIVES)
        assert {*EXAMPLES[name], "id"} == fields, name


def test_the_examples_are_right(shared_service: Service) -> None:
    """What the misuses are made from is done: it is the one wrong field that is refused."""
    token = shared_service.token
    requests = {**EXAMPLES, "authenticate": {"message": "authenticate", "token": token}}
    with shared_service.owner() as owner:
        for reply in ask_all(owner, list(requests.values())):
            assert "error" not in reply
            assert reply["message"] not in ("Invalid message!", "Unknown user!", "Denied!")
        assert owner.count() == 1


@pytest.fixture
def book(shared_service: Service) -> Any:
    """Yield a connection to a service with a user; check that the book is unchanged afterwards."""
    with shared_service.owner() as owner:
        owner.ask(save("example", labels=["kept"]))
        before = owner.ask(listing(limit=1000))
        yield owner
        assert owner.ask(listing(limit=1000)) == before
        assert owner.count() == len(before["users"])


@pytest.mark.parametrize(("name", "field"), CASES)
def test_a_misused_field_is_refused(book: Peer, name: str, field: str) -> None:
    """The reply names the field, repeats the id, never the value, and nothing is done."""
    values = MISUSES[field]
    example = {k: v for k, v in EXAMPLES[name].items() if k != ALTERNATIVES.get(field)}
    requests = [{**example, "id": n, field: value} for n, value in enumerate(values)]
    book.send(*requests, PING)
    for number, value in enumerate(values):
        reply = check_refused(book.line(), value)
        if field != "id":
            assert reply.get("id") == number or _not_unicode(value), value
            assert f'"{field}"' in reply["error"] or _not_unicode(value), (value, reply["error"])
        else:
            assert "id" not in reply
    assert book.reply() == ALIVE


def _not_unicode(value: object) -> bool:
    """Tell whether a message with the value is no text at all, so that nothing of it is known."""
    return any("\ud800" <= each <= "\udfff" for each in json_text(value))


def json_text(value: object) -> str:
    """Return a value as JSON, unescaped."""
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_field_is_named(book: Peer, name: str) -> None:
    """A command without one of the fields it needs is told which; the others may be left out."""
    needed = required(name)
    for missing in needed:
        request = {key: value for key, value in EXAMPLES[name].items() if key != missing}
        reply = book.ask({**request, "id": "m"})
        assert reply == {
            "message": "Invalid message!",
            "error": f'"{missing}" is missing.',
            "id": "m",
        }
    if not needed:
        assert book.ask({"message": name})["message"] != "Invalid message!"


SAVE_ONLY = ("labels", "if_version", "request_id")


@pytest.mark.parametrize("field", SAVE_ONLY)
def test_what_only_a_save_needs_is_refused_where_nothing_is_saved(book: Peer, field: str) -> None:
    """A generated password without a name is not saved: labels or an id of it would be lost."""
    left_out = {"username", *SAVE_ONLY} - {field}
    request = {k: v for k, v in EXAMPLES["generate_password"].items() if k not in left_out}
    reply = book.ask(request)
    assert reply["message"] == "Invalid message!"
    assert '"username" is missing' in reply["error"]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_known_is_ignored_whatever_it_holds(book: Peer, name: str) -> None:
    """Fields that a command does not know are ignored, and never stand for those that it needs."""
    unknown: list[Any] = [[], None, CANARY, {"password": 5}, 10**30]
    for value in unknown:
        reply = book.ask({"message": name, "note": value, "data": value})
        if required(name):
            assert "missing" in reply["error"]
        else:
            assert reply["message"] != "Invalid message!"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_misspelled_field_is_refused(book: Peer, name: str) -> None:
    """The name that it may have meant is told, and never what it holds."""
    for field in COMMANDS[name].__struct_fields__:
        check_refused(json.dumps(book.ask({**EXAMPLES[name], field.title(): CANARY})).encode(), 1)


def test_a_command_is_its_exact_name(book: Peer) -> None:
    """Another spelling of a command is another message: the contract's answer, without a reason."""
    spelled = [
        (name.upper(), f"{name} ", f" {name}", f"{name}\0", name.replace("_", "-") + "s", name[:-1])
        for name in COMMANDS
    ]
    requests = [{**save("example"), "message": name} for name in itertools.chain(*spelled)]
    assert ask_all(book, requests) == [{"message": "Invalid message!"}] * len(requests)
    no_names: list[Any] = [5, None, [], {}, True, ["ping"]]
    for message in no_names:
        check_refused(json.dumps(book.ask({**PING, "message": message})).encode(), message)


def test_a_misuse_in_a_pipeline_spoils_nothing(book: Peer) -> None:
    """Good and bad requests in one burst are each answered in their place."""
    good, bad = get("example"), get("")
    replies = ask_all(book, [good, bad, PING, bad, bad, good] * 50)
    assert [reply["message"] for reply in replies] == [
        "return_password",
        "Invalid message!",
        "Alive!",
        "Invalid message!",
        "Invalid message!",
        "return_password",
    ] * 50
