"""Fields that look like one the command knows are refused; all other additional data is ignored."""

import json
from typing import Any

import pytest

from pwserver.wire.messages import REQUESTS, Bad, Message, SavePassword
from tests.support.harness import Peer
from tests.support.wire import LIMIT, Outcome, read, tag
from tests.unit.wire.test_messages import SMALLEST, written

SAVE = {"message": "save_password", "password": "abc123"}

LOOK_ALIKE = {
    "save_password": {
        "username": "user userName USERNAME user_name User-Name name login usrename usernames",
        "password": "pasword passsword Password PASSWORD passwrod",
        "labels": "label Labels lables tag tags",
        "request_id": "request-id requestId RequestID requestid request_di idempotency_key",
        "if_version": "ifVersion if-version if_versions",
        "id": "Id ID",
    },
    "get_password": {"username": "user usrname", "version": "Version versoin versions"},
    "verify_password": {"username": "login", "password": "passwrd"},
    "restore_password": {"request_id": "requestId", "version": "verson"},
    "label_user": {"username": "name", "labels": "Labels"},
    "list_users": {
        "after": "After", "limit": "limits", "prefix": "prefx", "label": "labels lable",
    },
    "delete_user": {"username": "user"},
    "generate_password": {
        "length": "len lenght size", "alphabet": "alphbet charset", "username": "user",
    },
    "check_password": {"password": "Password"},
    "authenticate": {"token": "Token tokens"},
    "ping": {"id": "ID"},
}  # fmt: skip

USUAL = [
    "data",
    "time",
    "url",
    "site",
    "notes",
    "note",
    "type",
    "comment",
    "message_id",
    "email",
    "host",
    "app",
    "application",
    "timestamp",
    "title",
    "description",
    "category",
    "group",
    "role",
    "domain",
    "service",
    "date",
    "created",
    "lang",
    "client",
    "source",
    "uuid",
    "key",
    "value",
    "hash",
    "salt",
    "text",
    "device_id",
    "session",
    "os",
    "platform",
    "expires",
    "active",
    "count",
    "page",
    "status",
    "ip",
    "ids",
    "max",
    "lock",
    "file",
    "path",
    "meta",
    "extra",
    "info",
    "context",
    "debug",
    "x",
    "_",
    "locale",
    "timezone",
    "Data",
    "\xe9",
]
"""What programs add to their messages, and mean nothing of ours by."""


def sent(message: str, **fields: Any) -> Outcome:
    return read([json.dumps({"message": message, **fields}).encode()])


@pytest.mark.parametrize("message", LOOK_ALIKE)
def test_a_field_that_looks_like_a_known_one_is_refused(message: str) -> None:
    """Its name is told and the one that it may have meant; its value is not."""
    for field, names in LOOK_ALIKE[message].items():
        for name in names.split():
            told = f'"{name}" is not a field of {message}; did you mean "{field}"?'
            assert sent(message, id=7, **{name: "secret"}) == Outcome([Bad(told, 7)], False), name


@pytest.mark.parametrize("name", ["version", "Version", "expected_version"])
def test_a_version_beside_a_username_is_refused(name: str) -> None:
    """A save without a username may say which version of a program it comes from."""
    told = f'"{name}" is not a field of save_password; did you mean "if_version"?'
    named = sent("save_password", password="abc123", username="alice", **{name: 1})
    assert named == Outcome([Bad(told)], False)
    nameless = sent("save_password", password="abc123", **{name: 1})
    assert nameless == Outcome([SavePassword("abc123")], False)


@pytest.mark.parametrize("kind", REQUESTS, ids=tag)
def test_additional_data_is_ignored(kind: type[Message]) -> None:
    """A message with usual additional data, or with any fields of other commands, is as without."""
    others = {name for other in REQUESTS for name in other.__struct_fields__}
    if kind.__name__ in ("ListUsers", "SavePassword", "GeneratePassword", "LabelUser"):
        others -= {"label", "labels"}  # which look like each other
    expected = Outcome([kind(**SMALLEST[kind])], False)
    for name in {*USUAL, *others} - {*kind.__struct_fields__, "label", "labels"}:
        assert read([written(kind, **{name: [1]})]) == expected, name
    everything = {name: {"a": "\U0001f600"} for name in USUAL}
    assert read([written(kind, **everything)]) == expected


def test_another_word_is_additional_data_beside_the_field_itself() -> None:
    """A user may have a display name; two spellings of one field are one too many all the same."""
    expected = SavePassword("p", "alice")
    assert sent("save_password", password="p", username="alice", name="Alice") == Outcome(
        [expected], False
    )
    assert isinstance(
        sent("save_password", password="p", username="a", userName="b").messages[0], Bad
    )


def test_an_unknown_message_is_just_that() -> None:
    """Whatever fields it has, the reply is the contract's, without a reason."""
    assert sent("save_pasword", user="a", pasword="b") == Outcome([Bad(None)], False)
    twice = b'{"message": "ping", "x": 1, "message": "what"}'
    assert read([twice]) == Outcome([Bad(None)], False)


def test_what_else_is_wrong_is_said() -> None:
    """Additional data is no excuse for a field that is missing or is not what it must be."""
    assert sent("save_password", data=1) == Outcome([Bad('"password" is missing.')], False)
    wrong = sent("save_password", data=1, password=5)
    assert wrong == Outcome([Bad('"password" must be a text.')], False)
    nul = sent("save_password", data="\0", password="a\0")
    assert nul == Outcome([Bad('"password" holds a NUL character.')], False)


@pytest.mark.parametrize("name", ["user\u200bname", "us\x1bername", "usern\u0430me", "user\nname"])
def test_the_name_in_the_error_can_be_shown(name: str) -> None:
    """A name with characters that nobody sees is told without them."""
    (bad,) = sent("save_password", password="p", **{name: "a"}).messages
    assert isinstance(bad, Bad)
    assert str(bad.error).isprintable()
    assert str(bad.error).endswith('did you mean "username"?')


def test_long_names_look_like_nothing() -> None:
    """So what is said stays short, and what is looked at as well."""
    name = "username" + "_" * 100
    assert sent("save_password", password="p", **{name: "a"}) == Outcome([SavePassword("p")], False)


def test_additional_data_in_a_stream_is_read_in_any_packets() -> None:
    """Messages with it, without it and with look-alikes, in one packet or in many, are the same."""
    texts = [{**SAVE, "data": 1}, SAVE, {**SAVE, "user": "a"}, {**SAVE, "site": "}\n{"}, SAVE]
    stream = b"\n".join([json.dumps(text).encode() for text in texts]) + b"\n"
    at_once = read([stream])
    assert [type(message) for message in at_once.messages] == [
        SavePassword, SavePassword, Bad, SavePassword, SavePassword,
    ]  # fmt: skip
    for at in range(len(stream)):
        assert read([stream[:at], stream[at:]]) == at_once


def test_a_message_full_of_additional_data_is_read() -> None:
    """Thousands of fields cost some milliseconds, and are ignored like one."""
    fields = {f"x{number}": 1 for number in range(5_000)}
    text = json.dumps({**SAVE, **fields}, separators=(",", ":")).encode()
    assert len(text) < LIMIT
    assert read([text]) == Outcome([SavePassword("abc123")], False)


def test_no_more_fields_are_looked_at_than_a_person_writes() -> None:
    """Else thousands of clients with full messages would hold up the others."""
    fields = {f"x{number}": 1 for number in range(100)}
    text = json.dumps({**SAVE, **fields, "userName": "alice"}).encode()
    assert read([text]) == Outcome([SavePassword("abc123")], False)


def test_the_service_saves_nothing_for_a_field_it_does_not_know(peer: Peer) -> None:
    """Of a burst, exactly the messages that look like nothing else are done."""
    peer.send({**SAVE, "user": "carol"}, {**SAVE, "data": "some_data"}, SAVE, {**SAVE, "Id": 1})
    replies = [peer.reply() for _ in range(4)]
    assert [reply["message"] for reply in replies] == [
        "Invalid message!", "Password saved!", "Password saved!", "Invalid message!",
    ]  # fmt: skip
    assert replies[0]["error"] == (
        '"user" is not a field of save_password; did you mean "username"?'
    )
    assert peer.count() == 2
