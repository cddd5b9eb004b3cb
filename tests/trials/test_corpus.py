"""What fuzzing has found worth keeping, and what is known to be hostile, done again.

The checks are those of the fuzzers (`fuzz`), without atheris.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pwserver.errors import Unavailable
from pwserver.wire.framing import decode_whole
from pwserver.wire.messages import REQUESTS
from tests.trials.fuzz import commands, corpora, framing
from tests.trials.fuzz.seeds import LIFE
from tests.trials.fuzz.words import VALUES
from workers.serving.commands import TABLE

CORPUS_BYTES_MAX = 500_000


def test_framing_keeps_its_promises() -> None:
    """Whatever bytes, in whatever packets: the same messages, and a sentence for all else."""
    corpora.replay("framing", Path())


def test_commands_keep_their_promises_and_each_is_reached(tmp_path: Path) -> None:
    """Every message is answered once, in order, no password is told, and the book stays whole."""
    reached = corpora.replay("commands", tmp_path)
    assert set(commands.DONE.items()) <= reached
    assert len(commands.DONE) == len(TABLE)


def test_the_words_are_those_of_the_protocol() -> None:
    """A field that is added to a message is fuzzed, or this fails."""
    assert {field.name for kind in REQUESTS for field in structs.fields(kind)} == set(VALUES)


def test_the_corpus_is_small() -> None:
    """There is one for each fuzzer, and everybody who clones the repository has it."""
    sizes = [[path.stat().st_size for path in corpora.inputs(each)] for each in corpora.TARGETS]
    assert all(sizes)
    assert sum(map(sum, sizes)) < CORPUS_BYTES_MAX


def test_a_reader_that_takes_too_much_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails where the fast way has another limit than the slow one."""

    def without_limit(decoder: Any, data: bytes, size_max: int) -> list[Any] | None:
        return decode_whole(decoder, data, 1 << 30)

    framing.check(LIFE)
    monkeypatch.setattr("pwserver.wire.framing.decode_whole", without_limit)
    with pytest.raises(AssertionError):
        framing.check(LIFE)


def tells_the_password(password: str, given: str) -> bool:
    """Answer a verification as nothing may be answered."""
    raise Unavailable(f"{given} is not it.")


@pytest.mark.parametrize(
    ("broken", "replacement"),
    [
        ("workers.serving.queries._are_same", tells_the_password),
        ("workers.serving.commands.messages.alive", lambda id: b""),
        ("workers.serving.name_queues.Write.record", lambda self, outcome: 1 / 0),
    ],
)
def test_a_service_that_breaks_a_promise_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, replacement: Callable[..., Any]
) -> None:
    """The check fails where a password is told, a reply is missing, or something is raised."""
    with corpora.checking("commands", tmp_path) as check:
        check(LIFE)
        monkeypatch.setattr(broken, replacement)
        with pytest.raises((AssertionError, ZeroDivisionError, IndexError)):
            check(LIFE)
