"""Secrets: nothing that prints one shows it."""

import logging
import pickle
import traceback
from dataclasses import dataclass

import pytest

from pwserver.secret import Secret

CANARY = "canary-3f9a"


@dataclass
class Holder:
    """Something with a secret in it, as settings and keys are."""

    name: str
    secret: Secret[str]


@pytest.mark.parametrize("secret", [Secret(CANARY), Secret(CANARY.encode())])
def test_a_secret_is_not_printed(
    secret: Secret[str] | Secret[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Printed, formatted, logged, within other things or in a traceback, it shows nothing."""
    logging.getLogger(__name__).error("the secret is %s, or %r", secret, [secret])
    failure = "".join(traceback.format_exception(ValueError("no good:", secret)))
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r}", f"{secret!s}"]
    shown += [repr({"a": (secret,)}), caplog.text, failure]
    assert [text for text in shown if "canary" in text] == []
    assert [text for text in shown if "Secret(...)" not in text] == []
    assert repr(Holder("x", Secret(CANARY))) == "Holder(name='x', secret=Secret(...))"


def test_a_secret_has_no_place_where_its_value_is_listed() -> None:
    """What looks through an object's attributes, as error reports do, finds no value."""
    with pytest.raises(TypeError):
        vars(Secret(CANARY))


def test_a_secret_is_what_it_was_made_of() -> None:
    """Its value comes out by `reveal` alone, unchanged, in a child process as well."""
    for text in (CANARY, "", "p\u00e4ss \U0001f600"):
        assert Secret(text).reveal() == text
        assert Secret(text.encode()).reveal() == text.encode()
        assert pickle.loads(pickle.dumps(Secret(text))).reveal() == text


def test_secrets_compare_by_value() -> None:
    """Equal ones are one in a set, and none is equal to its own value."""
    same: list[object] = [Secret(CANARY), Secret("".join(CANARY))]
    assert same[0] == same[1]
    assert len({Secret(CANARY), Secret(CANARY), Secret("other"), Secret("")}) == 3
    for other in (Secret("other"), Secret(CANARY[:-1]), CANARY, None):
        assert same[0] != other
