"""The wire protocol alone: every message, every bad input, and any split of them into packets.

The one property above all others is what `check_each_packet` checks: what a reader has returned
depends on the bytes that it was given so far, never on how they were split.
"""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.wire import framing
from pwserver.wire.framing import Reader
from pwserver.wire.messages import Bad, Message, Ping, Request, encode
from tests.support.wire import CUTS, LIMIT, TEXTS, Outcome, brief, cut, read, requests, thorough

NOT_AN_OBJECT = Bad("The text is not a JSON object.")
NOT_JSON = Bad("The text is not JSON.")
NOT_UTF8 = Bad("The text is not valid UTF-8.")
NOT_ALLOWED = Bad("The message holds a value that is not allowed, such as a lone surrogate.")
NOT_COMPLETE = Bad("The text is not a complete JSON object; a newline ends a message.")
CUT_SHORT = Bad("The message is cut short.")
TOO_DEEP = Bad("The message is nested too deeply.")
UNKNOWN = Bad(None)
DEEP = 30_000  # levels that still fit into a message


def in_bytes(stream: bytes) -> list[bytes]:
    """Split a stream into packets of one byte."""
    return [stream[at : at + 1] for at in range(len(stream))]


def check_each_packet(packets: list[bytes], limit: int = LIMIT) -> None:
    """Check after each packet, and at the end, that the same bytes in one packet say the same."""
    reader = framing.request_reader(limit)
    messages: list[Request | Bad] = []
    stream = b""
    for packet in packets:
        stream += packet
        messages += reader.feed(packet)
        at_once = framing.request_reader(limit)
        assert messages == at_once.feed(stream)
        assert reader.broken == at_once.broken
        if not reader.broken:
            assert (reader.unsettled, reader.skipping) == (at_once.unsettled, at_once.skipping)
    assert Outcome(messages + reader.end(), reader.broken) == read([stream], limit)


SEPARATORS = st.sampled_from(["", "\n", "\r\n", " ", "\t", "\n\n", " \r\n \n"]).map(str.encode)


@thorough
@given(st.lists(st.tuples(requests(), SEPARATORS), max_size=6), CUTS)
def test_valid_messages_are_read_exactly(
    sent: list[tuple[tuple[bytes, Message], bytes]], cuts: list[int]
) -> None:
    """Any messages, with any separators or none, in any packets, are read as they were meant."""
    stream = b"".join(text + separator for (text, _), separator in sent)
    assert read(cut(stream, cuts)) == Outcome([request for (_, request), _ in sent], False)


SAME_LINE, NEXT_LINE, NEVER = "same line", "next line", "never"
_VALUES = (b"null", b"false", b"12345", b"1.5", b'["abc"]', b'{"message": "ping"}')
_NO_IDS = (b"true", b"1.5", b"1.0", b"null", b"[1]", b'{"id": 1}')
_LONG_PASSWORD = b'"%s"' % (b"x" * 4097)
_LONG_ID = b'"%s"' % (b"x" * 129)


def rows(bad: Bad | str, resumes: str, *texts: bytes) -> list[tuple[bytes, Bad, str]]:
    """Return bad inputs that have one answer in common."""
    return [(text, Bad(bad) if isinstance(bad, str) else bad, resumes) for text in texts]


def saving(*values: bytes) -> list[bytes]:
    """Return saves whose password is some JSON."""
    return [b'{"message": "save_password", "password": %s}' % value for value in values]


def with_id(*values: bytes, message: bytes = b"ping") -> list[bytes]:
    """Return messages whose id is some JSON."""
    return [b'{"message": "%s", "id": %s}' % (message, value) for value in values]


BAD = [
    # JSON objects that are no requests: reading goes on behind them.
    *rows(UNKNOWN, SAME_LINE, *(b'{"message": %s}' % v for v in (b'"what"', b'""', b'"\\u0000"'))),
    *rows(Bad(None, 9), SAME_LINE, b'{"message": "what", "id": 9}'),
    *rows('"message" is missing.', SAME_LINE, b"{}", b'{"password": "abc", "data": "some_data"}'),
    *rows(Bad('"message" is missing.', "i"), SAME_LINE, b'{"id": "i"}'),
    *rows('"message" must be a text.', SAME_LINE, *(b'{"message": %s}' % v for v in _VALUES)),
    *rows('"password" is missing.', SAME_LINE, b'{"message": "save_password"}'),
    *rows('"password" is empty.', SAME_LINE, *saving(b'""')),
    *rows('"password" must be a text.', SAME_LINE, *saving(*_VALUES)),
    *rows(Bad('"password" must be a text.', 3), SAME_LINE, *saving(b'5, "id": 3')),
    *rows('"password" is longer than 4096 characters.', SAME_LINE, *saving(_LONG_PASSWORD)),
    *rows('"password" holds a NUL character.', SAME_LINE, *saving(b'"\\u0000"', b'"a\\u0000b"')),
    *rows('"id" must be an integer or a text.', SAME_LINE, *with_id(*_NO_IDS)),
    *rows('"id" is longer than 128 characters.', SAME_LINE, *with_id(_LONG_ID)),
    *rows('"id" holds a NUL character.', SAME_LINE, *with_id(b'"a\\u0000"')),
    *rows('"id" is too large a number.', SAME_LINE, *with_id(b"1" * 5000)),
    *rows('"id" must be an integer or a text of at most 128 characters.', SAME_LINE,
          *with_id(*_NO_IDS, _LONG_ID, b'"\\u0000"', message=b"what")),
    # JSON that holds what no text or number can be, or more levels than can be read.
    *rows(NOT_ALLOWED, SAME_LINE, *saving(b'"\\ud800"', b'"\\udc00\\ud800"', b"NaN"),
          *with_id(b'"\\udfff"', b"NaN"), b'{"message": 5, "password": "\\ud800"}'),
    *rows(TOO_DEEP, SAME_LINE, b'{"x": ' * 9000 + b"1" + b"}" * 9000,
          b'{"message": "ping", "x": %s%s}' % (b"[" * DEEP, b"]" * DEEP)),
    # Objects that are not JSON: nobody can tell what else is on the line.
    *rows(NOT_JSON, NEXT_LINE, b'{"message": "ping",}', b"{'message': 'ping'}", *with_id(b"01"),
          b'{"message": "ping" "id": 1}', b'{"message": "ping", "x": [}',
          *saving(b'"a\0b"', b'"a\tb"', b'"\\x41"')),
    *rows(NOT_UTF8, NEXT_LINE, *saving(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3"'),
          b'{"message": "ping", "x": "\xc0\xaf"}'),
    *rows(NOT_AN_OBJECT, NEXT_LINE, b"null", b"true", b"5", b'"ping"', b"[]", b"hello", b"}",
          b'[{"message": "ping"}]', b"\0", b"\xff\xfe", b'\xef\xbb\xbf{"message": "ping"}'),
    # Cut short by a newline: the next line is a new message.
    *rows(NOT_COMPLETE, SAME_LINE, b'{"message": "ping"\n', b"{\r\n", b'{"message": "ping\n',
          b'{"message": "save_password", "password": "a\\\n'),
    *rows(NOT_AN_OBJECT, NEXT_LINE, b"hello world", b"Hello, world:", b'"password": "abc123"', b":",
          b"GET/", b"-:", b"2:", b"%s:" % (b"x" * 64)),
    # HTTP: whatever a web page likes stands behind it.
    *rows(NOT_AN_OBJECT, NEVER, b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n",
          b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\n", b"POST ", b"Host: 127.0.0.1\r\n",
          b"content-type:text/plain\n", b"X-1:", b"%s:" % (b"x" * 63)),
    # Too long: nothing behind it can be trusted.
    *rows("The message is longer than 65536 bytes.", NEVER, encode("ping", x="x" * LIMIT)[:-1]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "bad", "resumes"), BAD, ids=[f"{n}-{text[:40]!r}" for n, (text, *_) in enumerate(BAD)]
)
def test_each_bad_input_is_answered_once(text: bytes, bad: Bad, resumes: str) -> None:
    """A bad input has one reply at once that says why; reading resumes where the contract says."""
    text = b'{"message": "ping"}' + text
    stream = text + b'{"message": "ping", "id": 1}\n{"message": "ping", "id": 2}'
    good = {SAME_LINE: [Ping(1), Ping(2)], NEXT_LINE: [Ping(2)], NEVER: []}[resumes]
    expected = Outcome([Ping(), bad, *good], resumes == NEVER)
    assert framing.request_reader(LIMIT).feed(text) == [Ping(), bad]
    assert read([stream]) == expected
    assert read([text, stream[len(text) :]]) == expected
    assert read(in_bytes(stream)) == expected


@pytest.mark.parametrize("text", [text for text, bad, _ in BAD if bad == NOT_AN_OBJECT])
def test_what_begins_with_no_object_is_not_read_on(text: bytes) -> None:
    """A first byte that can begin no object breaks the reader; blanks before one are legal."""
    ping = b'{"message": "ping"}\n'
    for before in (b"", b" \t\r\n\n "):
        for packets in ([before + text + b"\n" + ping], in_bytes(before + text + b"\n" + ping)):
            assert read(packets) == Outcome([NOT_AN_OBJECT], True)
        assert read([before, ping, text, b"\n" + ping]).messages[:2] == [Ping(), NOT_AN_OBJECT]


def test_a_reader_is_told_that_others_have_read_before() -> None:
    """Then its first text is not the connection's first, and bad text is skipped."""
    reader = framing.request_reader(LIMIT)
    reader.begun = True
    assert reader.feed(b'hello\n{"message": "ping"}\n') == [NOT_AN_OBJECT, Ping()]
    assert not reader.broken


def test_the_size_limit_is_exact_for_each_message() -> None:
    """The longest message is taken and a byte more is not; bad lines are measured one by one."""
    at_limit = b'{"message": "ping", "x": "%s"}' % (b"x" * 72)
    assert len(at_limit) == 100
    for end in (b"", b"\n"):
        for packets in ([at_limit + end], in_bytes(at_limit + end)):
            assert read(packets, 100) == Outcome([Ping()], False)
            assert read(packets, 99) == Outcome([Bad("The message is longer than 99 bytes.")], True)
    bad_lines = b'{"message": "ping"}' + (b"x" * 90 + b"\n") * 3
    for packets in ([bad_lines], in_bytes(bad_lines)):
        assert read(packets, 100) == Outcome([Ping(), *[NOT_AN_OBJECT] * 3], False)


def test_the_end_of_the_stream_cuts_a_message_short() -> None:
    """A message that the end cuts short is answered; bad text and blanks are not answered again."""
    assert read([b'{"message": "ping"']) == Outcome([CUT_SHORT], False)
    assert read([b'{"message": "ping"} \r\n\t ']) == Outcome([Ping()], False)
    assert read([b'{"message": "ping"} garbage']) == Outcome([Ping(), NOT_AN_OBJECT], False)
    assert read([b""]) == Outcome([], False)


def test_a_reader_tells_what_it_waits_for() -> None:
    """A connection's deadlines rest on `unsettled` and `skipping`."""
    reader = framing.request_reader(LIMIT)
    seen = []
    for packet in (b'{"message"', b': "ping"}', b" \n", b"bad", b"bad\n", b"{", b"}"):
        reader.feed(packet)
        seen.append((reader.unsettled, reader.skipping))
    assert seen == [
        (True, False), (False, False), (False, False), (True, True), (False, False), (True, False),
        (False, False),
    ]  # fmt: skip


TRICKY = [
    b'{"message":"ping"}{"message":"ping","id":1} {"message":"ping"}\r\n\n\t{"message":"ping"}',
    b'\n\r\n {"message":"ping"}\n\n{"message":"ping"}\r\n{"message":"ping"} \n{"message":"ping"}\n',
    rb'{"message":"save_password","password":"\"}\\"}{"message":"save_password","password":"\\\"{"}',
    b'{"message":"save_password","password":"a}\n{b"}\n{"message":"ping"}\n',
    b'{"message":"ping","x":"a}\n{b"}\n{"message":"ping","x":"}\\n{"}\n{"message":"ping"}',
    b'{"message":\n"ping"}',
    b'{\n  "message": "ping"\n}\n{"message":"ping"}\n',
    b'{"message":"ping","x":{}\n}\n{"message":"ping"}',
    b'{"message":"ping","x":{"y":{}}}}\n{"message":"ping"}',
    b'{"message":"save_password","password":"\\\n"}{"message":"ping"}\n{"message":"ping"}',
    '{"message":"save_password","password":"é\u2028\U0001f600"}{"message":"é"}\n'.encode(),
    b'{"message":"ping","id":"\\u0000"}\n{"message":"ping","id":"\\\\u0000"}\n',
    b'{"message":"ping","id":"\xff"}{"message":"ping"}\n{"message":"ping"}\n',
    b'{"message":"ping"}\xff{"message":"ping"}\n{"message":"ping"}\n',
    b'{"message":"ping"}\0\n\0{"message":"ping"}\n{"message":"ping","x":"\0"}\n{"message":"ping"}',
    b'{"message":"ping","id":"\\ud83d"}{"message":"ping","id":"\\ud83d\\ude00"}\n',
    b'{"message":"ping"}5{"message":"ping"}\n{"message":"ping"}\n',
    b'{"message":"ping"}\n[{"message":"ping"}\n,{"message":"ping"}]\n{"message":"ping"}\n',
    b'{"message":"ping"}\n{"message":"ping"\n{"message":"ping"}\n{"message":"pi',
    b'{"message":"ping","x":[}{"message":"ping"}\n{"message":"ping"}{"message":"ping","y":"}',
]  # fmt: skip


@pytest.mark.parametrize("stream", TRICKY)
def test_every_split_of_tricky_streams(stream: bytes) -> None:
    """A stream cut in two anywhere, or into single bytes, says at each byte what the whole does."""
    check_each_packet(in_bytes(stream))
    for at in range(len(stream)):
        check_each_packet([stream[:at], stream[at:]])


SOUP = st.lists(
    st.sampled_from([
        *(bytes([byte]) for byte in b'{}"\\\n\r []:,1'), b'{"message":"ping"}', b'"message"',
        b'{"a":', b'"message":"save_password","password":"', b"}\n{", b'"}', b"\\u0000",
        b"\\ud800", b"\0", b"\xff", "é".encode(), b"\xed\xa0\x80", b'\\"', b"\\\\", b"\xef\xbb\xbf",
    ]),
    max_size=24,
).map(b"".join)  # fmt: skip
BOMBS = st.sampled_from([b"[" * 5000, b'{"x":' * 3000, b'{"x":' + b"[" * 5000 + b"}"])
REQUESTS = requests().map(lambda drawn: drawn[0])
PIECES = st.one_of(
    REQUESTS,
    REQUESTS.map(lambda text: json.dumps(json.loads(text), indent=1).encode()),
    st.sampled_from([text for text, *_ in BAD if len(text) < 500]),
    SOUP,
    st.binary(max_size=40),
    TEXTS.map(str.encode),
)
STREAMS = st.lists(st.tuples(PIECES, SEPARATORS).map(b"".join), max_size=8).map(b"".join)


@settings(thorough, max_examples=200)
@given(STREAMS, CUTS, st.just(LIMIT) | st.integers(16, 80))
def test_any_packets_give_the_same_messages(stream: bytes, cuts: list[int], limit: int) -> None:
    """Good messages, bad, garbage and oversize, in any packets, are read as if sent at once."""
    check_each_packet(cut(stream, cuts), limit)
    assert read(in_bytes(stream), limit) == read([stream], limit)


@brief
@given(STREAMS, BOMBS, STREAMS, CUTS)
def test_any_packets_of_nesting_bombs_give_the_same_messages(
    before: bytes, bomb: bytes, behind: bytes, cuts: list[int]
) -> None:
    """Deep nesting changes nothing about that, wherever it comes and however it is split."""
    check_each_packet(cut(before + bomb + behind, cuts))


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"x":', b"}")])
@pytest.mark.parametrize("inner", [b"1", b'"%s"' % (b"[{" * 99)])
def test_the_limit_of_nesting_is_exact(opening: bytes, closing: bytes, inner: bytes) -> None:
    """64 levels are taken and one more is not, in any packets; brackets in texts are no levels."""
    for levels in (1, 2, 63, 64, 65, 66, 5000):
        nested = opening * (levels - 1) + inner + closing * (levels - 1)
        text = b'{"message":"ping","x":%s}' % nested
        for stream in (text, text + b"\n", (text + b"\n") * 3, text * 3):
            messages = [Ping() if levels <= 64 else TOO_DEEP] * stream.count(b"ping")
            assert read([stream]) == read([stream[:9], stream[9:]]) == Outcome(messages, False)


TOO_LONG = Bad("The message is longer than 64 bytes.")
OVERSIZE = [
    (b'{"message": "ping", "x": "%s"}' % (b"x" * 64), TOO_LONG),
    (b'{"message": "ping", "x": "%s\n' % (b"x" * 64), TOO_LONG),
    (b"{" * 65, TOO_LONG),
    (b'{"x": "\xff' + b"\\" * 64, TOO_LONG),
    (b"x" * 65, NOT_AN_OBJECT),
    (b"{,}" + b"x" * 65, NOT_JSON),
]


@pytest.mark.parametrize(("stream", "bad"), OVERSIZE)
@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_oversize_breaks_the_reader_in_any_packets(stream: bytes, bad: Bad, newline: bytes) -> None:
    """What is too long is answered once, breaks the reader, and nothing behind it is read."""
    before = b'{"message": "ping"}\n'
    whole = before + stream + newline + before
    splits = [[whole[:at], whole[at:]] for at in range(len(whole))]
    for packets in ([whole], in_bytes(whole), *splits):
        assert read([*packets, before], 64) == Outcome([Ping(), bad], True)


def kept_bytes(reader: Reader[Request]) -> int:
    """Return how many bytes of what it was fed a reader keeps."""
    slots = [getattr(reader, name) for name in Reader.__slots__]
    return sum(len(value) for value in slots if isinstance(value, bytes))


@thorough
@given(st.lists(st.binary(max_size=64) | SOUP | STREAMS, max_size=12), st.integers(16, 80))
def test_anything_is_survived_in_bounded_memory(packets: list[bytes], limit: int) -> None:
    """No bytes raise anything or make a reader keep more than one message of the largest size."""
    reader = framing.request_reader(limit)
    assert reader.feed(b'{"message":') == []
    assert kept_bytes(reader) == 11  # so this measure measures something
    for packet in packets:
        reader.feed(packet)
        assert kept_bytes(reader) <= (0 if reader.broken else limit)
    assert len(reader.end()) <= 1
    assert kept_bytes(reader) == 0


SAVE = '{"message": "save_password", '
SPILLS = [
    *(SAVE + fields for fields in (
        '"password": "%s", "id": true}', '"password": "%s", "id": {"%s": "%s"}}', '"%s": "%s"}',
        '"password": "%s\\u0000"}', '"password": "%s\\ud800"}', '"password": "\x01%s"}',
        '"password": ["%s"]}', '"password": {"%s": 1}}', '"pasword": "%s"}', '"password": "%s',
        '"password": "%s}\n', '"password": %s}\n', '"password": "%s" "id"}',
    )),
    '{"message": "verify_password", "username": "%s", "password": "%s", "id": null}',
    '{"message": "verify_password", "username": ["%s"], "password": "%s"}',
    '{"message": "check_password", "password": {"%s": "%s"}}',
    '{"message": "generate_password", "alphabet": "%s\\u0000", "length": "%s"}',
    '{"message": "label_user", "username": "%s", "labels": ["%s", 5]}',
    '{"message": "get_password", "username": "a", "version": "%s", "request_id": "%s"}',
    '{"message": "%s", "password": "%s", "id": []}', '{"message": ["%s"]}', '{"%s": "%s"}',
    '{"message": {"%s": "%s"}}', "{'message': 'save_password', 'password': '%s'}", '["%s"]', "%s",
]  # fmt: skip


@brief
@given(
    st.text("abcdefghijkmnopqrstuvwxyz0123456789!@-_", min_size=8, max_size=18).map("7{}!".format)
)
def test_errors_never_repeat_the_password(password: str) -> None:
    """Wherever the password stands in a message that is refused, the error does not show it."""
    for spill in SPILLS:
        stream = spill.replace("%s", password).encode()
        for text in (stream, stream.replace(b'"id"', b'"id": "\xff"')):
            bad = [message for message in read([text]).messages if isinstance(message, Bad)]
            assert bad
            assert not [m for m in bad if m.error is not None and password in m.error]
    too_long = encode("save_password", password=password * 410)
    assert read([too_long]).messages == [Bad('"password" is longer than 4096 characters.')]


class _Counting:
    """A pattern that notes how many bytes it was made to look at."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self.looked_at = 0

    def search(self, data: bytes, position: int) -> re.Match[bytes] | None:
        found = self._pattern.search(data, position)
        self.looked_at += (found.end() if found else len(data)) - position
        return found


@pytest.mark.parametrize(
    "filling", [b'"%s"' % (b"x" * 65000), rb'"%s"' % (rb"\"" * 32000), b"[%s1]" % (b"{}," * 21000)]
)
def test_a_message_is_searched_once_however_slowly_it_comes(
    filling: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a 64 KiB message that comes a byte at a time is looked for once."""
    text = b'{"message": "ping", "x": %s}' % filling
    patterns = [_Counting(framing._OUTSIDE_STRING), _Counting(framing._INSIDE_STRING)]
    monkeypatch.setattr(framing, "_OUTSIDE_STRING", patterns[0])
    monkeypatch.setattr(framing, "_INSIDE_STRING", patterns[1])
    assert read(in_bytes(text)) == Outcome([Ping()], False)
    assert len(text) / 2 <= sum(pattern.looked_at for pattern in patterns) <= 2 * len(text)
