"""What SIGHUP changes of the settings."""

import dataclasses

from pwserver.config import Settings
from pwserver.server.reload import LIVE, changes
from tests.unit.test_docs import OPERATIONS


def test_each_change_is_made_or_named() -> None:
    """What another process or file is needed for stays, and is said to need a new program."""
    used = Settings(port=1, versions_kept=3)
    found = changes(used, Settings(port=2, versions_kept=4, guests="none"))
    assert found.settings == dataclasses.replace(used, versions_kept=4, guests="none")
    assert found.made == ["guests (all -> none)", "versions_kept (3 -> 4)"]
    assert found.needed == ["port"]


def test_nothing_differs() -> None:
    """Then nothing is said."""
    found = changes(Settings(), Settings())
    assert (found.made, found.needed) == ([], [])


def test_whether_there_is_tls_needs_a_new_program() -> None:
    """Other certificates do not, because the sockets are the same."""
    tls = Settings(tls_cert="a", tls_key="b")
    assert changes(Settings(), tls).needed == ["tls_cert", "tls_key"]
    other = Settings(tls_cert="c", tls_key="b")
    assert changes(tls, other).made == ["tls_cert (a -> c)"]


def test_the_documents_name_what_can_be_changed() -> None:
    """Each such setting is one, and is listed with the others."""
    assert {each.name for each in dataclasses.fields(Settings)} >= LIVE
    text = OPERATIONS.read_text().partition("## Changing settings")[2].partition("\n## ")[0]
    assert not [name for name in LIVE if f"`{name}`" not in text]
