"""Certificate revocation lists in the file of `tls_client_ca`, before anybody is verified."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pwserver.errors import ConfigError
from tests.support.tls import Authority
from workers.tls import revocation_lists

Alter = Callable[[Authority, Authority], bytes]


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (
            lambda one, other: one.pem + other.pem + one.revocation_list(),
            "but none of the authority CN=other",
        ),
        (lambda one, other: one.pem + one.revocation_list()[:-30], "without its last line"),
        (
            lambda one, other: one.pem + one.revocation_list().replace(b"M", b"*"),
            "a revocation list that cannot be read",
        ),
    ],
    ids=["another authority has none", "cut off", "damaged"],
)
def test_lists_that_would_keep_everybody_out_are_refused(
    tmp_path: Path, alter: Alter, words: str
) -> None:
    """At the start and at a SIGHUP, in one sentence that says which authority it is about."""
    one, other = Authority(tmp_path, "one"), Authority(tmp_path, "other")
    both = one.pem + other.pem
    revocation_lists.check("clients.pem", both)
    revocation_lists.check("clients.pem", both + one.revocation_list() + other.revocation_list())
    with pytest.raises(ConfigError, match=f"^tls_client_ca clients.pem has .*{words}"):
        revocation_lists.check("clients.pem", alter(one, other))
