"""Each message of the wire protocol and each reply: what they may hold, and what is said if not."""

import json
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw, UnsetType, structs

from pwserver.errors import Denied, NotSaved, Unavailable, UnknownUser
from pwserver.wire import framing, messages
from pwserver.wire.messages import (
    Authenticate,
    Bad,
    CheckPassword,
    DeleteUser,
    GeneratePassword,
    GetPassword,
    Id,
    LabelUser,
    ListUsers,
    Message,
    NumberOfUsers,
    PasswordHistory,
    Ping,
    Reply,
    RestorePassword,
    SavedVersion,
    SavePassword,
    Status,
    User,
    VerifyPassword,
    encode,
)
from tests.support.wire import (
    CUTS,
    FIELDS,
    IDS,
    LIMIT,
    NO_NUL,
    Outcome,
    brief,
    cut,
    read,
    requests,
    tag,
    thorough,
)

GOOD_IDS: list[int | str] = [
    0,
    1,
    -1,
    -(2**63),
    2**64,
    10**4000,
    "",
    "a",
    "x" * 128,
    "é" * 128,
    "}\n{",
    '"',
]
SMALLEST: dict[type[Message], dict[str, Any]] = {
    SavePassword: {"password": "p"},
    NumberOfUsers: {},
    GetPassword: {"username": "u"},
    VerifyPassword: {"username": "u", "password": "p"},
    PasswordHistory: {"username": "u"},
    RestorePassword: {"username": "u", "version": 1},
    LabelUser: {"username": "u", "labels": []},
    ListUsers: {},
    DeleteUser: {"username": "u"},
    GeneratePassword: {},
    CheckPassword: {"password": "p"},
    Authenticate: {"token": "t"},
    Ping: {},
    Status: {},
}
"""Each message with what it must have."""


def written(kind: type[Message], **fields: Any) -> bytes:
    """Return a message with some fields in place of those it must have, as JSON."""
    return json.dumps({"message": tag(kind), **SMALLEST[kind], **fields}).encode()


# --- Requests. ---


def test_every_message_has_its_examples() -> None:
    """No message, and no field of one, can be added without being in these tests."""
    assert set(SMALLEST) == set(messages.REQUESTS)
    assert {field for kind in SMALLEST for field in kind.__struct_fields__} == set(FIELDS)


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ('{"message": "save_password", "password": "abc123"}', SavePassword("abc123")),
        ('{"message": "number_of_users"}', NumberOfUsers()),
        ('{"message": "number_of_users", "data": "some_data"}', NumberOfUsers()),
        ('{"message": "ping"}', Ping()),
        ('{"id": 7, "password": "\\ud83d\\ude00", "message": "save_password"}',
         SavePassword("\U0001f600", id=7)),
        ('{"message": "save_password", "password": "\\\\u0000"}', SavePassword("\\u0000")),
        ('{"message": "ping", "note": "\\u0000", "more": {"message": 5, "id": []}}', Ping()),
        ('{"m\\u0065ssage": "ping"}', Ping()),
        ('{"message": "save_password", "password": "p", "username": "u", "labels": ["a", "b"], '
         '"if_version": 0, "request_id": "r"}', SavePassword("p", "u", ["a", "b"], 0, "r")),
        ('{"message": "get_password", "username": "u", "version": 3}', GetPassword("u", 3)),
        ('{"message": "list_users"}', ListUsers("", 100, "")),
        ('{"message": "list_users", "after": "a", "limit": 5, "prefix": "p", "label": "l"}',
         ListUsers("a", 5, "p", "l")),
        ('{"message": "authenticate", "token": "t"}', Authenticate("t")),
        ('{"message": "generate_password"}', GeneratePassword(20)),
        ('{"message": "generate_password", "length": 4, "alphabet": "01", "username": "u"}',
         GeneratePassword(4, "01", "u")),
    ],
)  # fmt: skip
def test_each_request_is_decoded(text: str, request_: Message) -> None:
    """The contract's requests are read, whatever the order of keys, escapes and extra keys."""
    assert read([text.encode()]) == Outcome([request_], False)


@pytest.mark.parametrize("kind", messages.REQUESTS, ids=tag)
def test_every_reply_can_repeat_the_id(kind: type[Message]) -> None:
    """Integers of any size and texts of up to 128 characters are ids, of bad messages too."""
    expected = kind(**SMALLEST[kind])
    for id in GOOD_IDS:
        assert read([written(kind, id=id)]) == Outcome([structs.replace(expected, id=id)], False)
        for field in SMALLEST[kind]:
            (bad,) = read([written(kind, id=id, **{field: None})]).messages
            assert (type(bad), bad.id) == (Bad, id)
        unknown = json.dumps({"message": "what", "id": id}).encode()
        assert read([unknown]) == Outcome([Bad(None, id)], False)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in messages.REQUESTS if kind is not Authenticate],  # which must have one of two
    ids=tag,
)
def test_what_a_message_must_have_is_missed(kind: type[Message]) -> None:
    """A message without one of its fields is refused, and the field is named."""
    for field in SMALLEST[kind]:
        fields = {"message": tag(kind), **SMALLEST[kind], "id": 1}
        del fields[field]
        bad = Bad(f'"{field}" is missing.', 1)
        assert read([json.dumps(fields).encode()]) == Outcome([bad], False)


LENGTHS = [
    (SavePassword, "password", 1, 4096),
    (SavePassword, "username", 1, 128),
    (SavePassword, "request_id", 1, 128),
    (GetPassword, "username", 1, 128),
    (ListUsers, "after", 0, 128),
    (ListUsers, "prefix", 0, 128),
    (ListUsers, "label", 1, 64),
    (GeneratePassword, "alphabet", 2, 256),
    (CheckPassword, "password", 1, 4096),
    (Authenticate, "token", 1, 256),
    (Authenticate, "scram", 1, 1024),
]


@pytest.mark.parametrize(("kind", "field", "shortest", "longest"), LENGTHS)
def test_texts_are_taken_up_to_their_length(
    kind: type[Message], field: str, shortest: int, longest: int
) -> None:
    """A text may have so many characters, however many bytes those are, and not one more."""
    for length in (shortest, longest):
        for text in ("x" * length, "é" * length, "\U0001f600" * length):
            expected = kind(**{**SMALLEST[kind], field: text})
            assert read([written(kind, **{field: text})]) == Outcome([expected], False)
    too_long = Bad(f'"{field}" is longer than {longest} characters.')
    assert read([written(kind, **{field: "é" * (longest + 1)})]) == Outcome([too_long], False)
    if shortest:
        few = "is empty" if shortest == 1 else f"is shorter than {shortest} characters"
        too_short = Outcome([Bad(f'"{field}" {few}.')], False)
        assert read([written(kind, **{field: "x" * (shortest - 1)})]) == too_short


NUMBERS = [
    (GetPassword, "version", 1, 2**53 - 1),
    (RestorePassword, "version", 1, 2**53 - 1),
    (ListUsers, "limit", 1, 1000),
    (GeneratePassword, "length", 4, 256),
]


@pytest.mark.parametrize(("kind", "field", "least", "greatest"), NUMBERS)
def test_numbers_are_taken_within_their_bounds(
    kind: type[Message], field: str, least: int, greatest: int
) -> None:
    """A number has a least and a greatest value, which the sentence says where it is beyond."""
    for number in (least, greatest):
        expected = kind(**{**SMALLEST[kind], field: number})
        assert read([written(kind, **{field: number})]) == Outcome([expected], False)
    for number in (least - 1, -1, -(2**70)):
        bad = Bad(f'"{field}" is less than {least}.')
        assert read([written(kind, **{field: number})]) == Outcome([bad], False)
    for number in (greatest + 1, 2**64, 10**40):
        bad = Bad(f'"{field}" is more than {greatest}.')
        assert read([written(kind, **{field: number})]) == Outcome([bad], False)
    others: list[object] = [1.5, "5", True, None, [], {}]
    for value in others:
        bad = Bad(f'"{field}" must be a whole number.')
        assert read([written(kind, **{field: value})]) == Outcome([bad], False)


@pytest.mark.parametrize(("kind", "field", "shortest", "longest"), LENGTHS)
def test_other_values_are_no_texts(
    kind: type[Message], field: str, shortest: int, longest: int
) -> None:
    """Where a text belongs nothing else is taken, nor one with NUL in it."""
    for value in (None, True, 5, 1.5, ["a"], {"a": "b"}):
        bad = Bad(f'"{field}" must be a text.')
        assert read([written(kind, **{field: value})]) == Outcome([bad], False)
    bad = Bad(f'"{field}" holds a NUL character.')
    assert read([written(kind, **{field: "a\0b"})]) == Outcome([bad], False)


@pytest.mark.parametrize("kind", [SavePassword, LabelUser, GeneratePassword])
@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a"] * 17, '"labels" holds more than 16 texts.'),
        (["a", "x" * 65], '"labels" holds a text longer than 64 characters.'),
        (["a", ""], '"labels" holds an empty text.'),
        (["a", 5], '"labels" must hold texts.'),
        ([None], '"labels" must hold texts.'),
        (["a", "b\0"], '"labels" holds a NUL character.'),
        ("a", '"labels" must be a list of texts.'),
        (None, '"labels" must be a list of texts.'),
        ({"a": "b"}, '"labels" must be a list of texts.'),
    ],
)
def test_labels_are_a_short_list_of_texts(
    kind: type[Message], labels: object, sentence: str
) -> None:
    """Up to 16 labels of up to 64 characters are taken, none among them; else it is said why."""
    assert read([written(kind, labels=labels)]) == Outcome([Bad(sentence)], False)
    for good in ([], ["é" * 64] * 16):
        expected = kind(**{**SMALLEST[kind], "labels": good})
        assert read([written(kind, labels=good)]) == Outcome([expected], False)


def test_a_save_is_plain_where_nothing_depends_on_the_book() -> None:
    """The contract's save, with an id or without, is plain; one with any other field is not."""
    assert SavePassword("p").plain
    assert SavePassword("p", id=7).plain
    more: list[dict[str, Any]] = [{"username": "u"}, {"labels": []}, {"if_version": 0}]
    more += [{"request_id": "r"}]
    for fields in more:
        assert not SavePassword("p", **fields).plain


@brief
@given(requests())
def test_no_printed_request_shows_a_secret(drawn: tuple[bytes, Message]) -> None:
    """What is printed or logged of a request has all in it but the password, or the token."""
    request = drawn[1]
    secret = "canary-3f9a"
    for field in {"password", "token"} & set(request.__struct_fields__):
        request = structs.replace(request, **{field: secret})
    for shown in (repr(request), str(request), f"{[request]}"):
        assert secret not in shown
        assert type(request).__name__ in shown
    if getattr(request, "username", UNSET) is not UNSET:
        assert repr(getattr(request, "username", "")) in repr(request)


# --- Replies. ---


def test_the_seeds_replies_are_the_contracts_bytes() -> None:
    """What main applications were made for is sent byte for byte as the contract says."""
    assert messages.PASSWORD_SAVED == b'{"message": "Password saved!"}\n'
    assert messages.return_number_of_users(10_000_000, UNSET) == (
        b'{"message": "return_number_of_users", "number_of_users": 10000000}\n'
    )
    assert messages.invalid_message(Bad(None)) == b'{"message": "Invalid message!"}\n'
    assert messages.refusal(Denied("No."), UNSET) == messages.denied(UNSET, "No.")


ID = {"id": "é"}


@pytest.mark.parametrize(
    ("without_id", "with_id", "expected"),
    [
        (messages.alive(UNSET), messages.alive("é"), {"message": "Alive!"}),
        (
            messages.return_number_of_users(0, UNSET),
            messages.return_number_of_users(0, "é"),
            {"message": "return_number_of_users", "number_of_users": 0},
        ),
        (
            messages.return_verify_password(True, UNSET),
            messages.return_verify_password(True, "é"),
            {"message": "return_verify_password", "valid": True},
        ),
        (
            messages.return_verify_password(False, UNSET),
            messages.return_verify_password(False, "é"),
            {"message": "return_verify_password", "valid": False},
        ),
        (
            messages.invalid_message(Bad(None)),
            messages.invalid_message(Bad(None, "é")),
            {"message": "Invalid message!"},
        ),
        (
            messages.invalid_message(Bad("It is.")),
            messages.invalid_message(Bad("It is.", "é")),
            {"message": "Invalid message!", "error": "It is."},
        ),
        (
            messages.denied(UNSET, "No."),
            messages.denied("é", "No."),
            {"message": "Denied!", "error": "No."},
        ),
        (
            messages.refusal(UnknownUser(), UNSET),
            messages.refusal(UnknownUser(), "é"),
            {"message": "Unknown user!"},
        ),
        (
            messages.refusal(NotSaved("It is not."), UNSET),
            messages.refusal(NotSaved("It is not."), "é"),
            {"message": "Not saved!", "error": "It is not."},
        ),
    ],
)
def test_replies_say_what_the_contract_says(
    without_id: bytes, with_id: bytes, expected: dict[str, object]
) -> None:
    """Each reply is one line of JSON with these fields, in this order, and the id at its end."""
    for line, fields in ((without_id, expected), (with_id, {**expected, **ID})):
        assert line.find(b"\n") == len(line) - 1
        assert list(json.loads(line).items()) == list(fields.items())


@pytest.mark.parametrize("id", [0, "", -1, 10**40])
def test_an_id_is_repeated_whatever_it_is(id: int | str) -> None:
    """No id is taken for none, and refusals of the service have the word of their class."""
    for refusal in (UnknownUser(), NotSaved("Because."), Unavailable("Because.")):
        reply = json.loads(messages.refusal(refusal, id))
        assert (reply["message"], reply["id"]) == (type(refusal).message, id)
    assert json.loads(messages.alive(id))["id"] == id
    told = json.loads(messages.denied(id, "No."))
    assert told == {"message": "Denied!", "id": id, "error": "No."}
    assert json.loads(messages.invalid_message(Bad(None, id))) == {
        "message": "Invalid message!",
        "id": id,
    }


def test_fields_are_sent_as_they_are_given() -> None:
    """What is JSON already goes out unchanged, what is not set stays out, and None is null."""
    line = encode("m", UNSET, labels=Raw(b'["\\u00e9"]'), error=UNSET, after=None)
    assert line == b'{"message":"m","labels":["\\u00e9"],"after":null}\n'


def test_saves_are_answered_one_by_one() -> None:
    """Each save has its own line, with its own id where it has one."""
    groups: list[list[Id]] = [[], [UNSET] * 3, [0, ""], [UNSET, 0, "", UNSET, "é", 10**40]]
    for ids in groups:
        lines = messages.passwords_saved(ids).splitlines(keepends=True)
        for line, id in zip(lines, ids, strict=True):
            fields = {} if isinstance(id, UnsetType) else {"id": id}
            assert json.loads(line) == {"message": "Password saved!", **fields}
            assert line.endswith(b"\n")


COUNTS = st.integers(0, 2**63)
TIMES = st.datetimes(timezones=st.just(UTC))
LABELS = st.lists(NO_NUL, max_size=2)
ANSWERS: dict[str, st.SearchStrategy[Any]] = {
    **FIELDS,
    "message": NO_NUL,
    "number_of_users": COUNTS,
    "password": NO_NUL,
    "time_saved": TIMES,
    "valid": st.booleans(),
    "versions": st.lists(st.builds(SavedVersion, COUNTS, TIMES), max_size=2),
    "users": st.lists(st.builds(User, NO_NUL, LABELS, COUNTS, TIMES), max_size=2),
    "strength": st.integers(0, 4),
    "warning": NO_NUL,
    "suggestions": LABELS,
    "application": NO_NUL,
    "may": LABELS,
    "workers": COUNTS,
    "uptime_s": st.floats(0, 1e9),
    "parts": st.dictionaries(NO_NUL, NO_NUL, max_size=2),
    "write_error": NO_NUL,
    "write_error_since": TIMES,
    "backup_age_s": st.floats(0, 1e9),
    "backup_error": NO_NUL,
    "backup_error_since": TIMES,
    "token_expires": TIMES,
    "scram": NO_NUL,
    "error": NO_NUL,
    "id": IDS,
}
REPLIES = st.builds(Reply, ANSWERS["message"], **{
    name: st.none() | ANSWERS[name] for name in Reply.__struct_fields__[1:]
})  # fmt: skip


@thorough
@given(st.lists(REPLIES, max_size=3), CUTS)
def test_what_is_encoded_is_read_back(replies: list[Reply], cuts: list[int]) -> None:
    """A client reads the replies that were sent, from any packets."""
    stream = b""
    for reply in replies:
        fields = structs.asdict(reply)
        message, id = fields.pop("message"), fields.pop("id")
        present = {name: value for name, value in fields.items() if value is not None}
        line = encode(message, UNSET if id is None else id, **present)
        assert line.find(b"\n") == len(line) - 1
        stream += line
    reader = framing.reply_reader(LIMIT)
    assert [reply for packet in cut(stream, cuts) for reply in reader.feed(packet)] == replies
    assert reader.end() == []
