"""Older versions packed into one value: what goes in comes out, and no more than is to be kept."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.book.history import OlderVersion, add, find, pack, unpack

SEALED = st.binary(max_size=300)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def version(number: int, sealed: bytes = b"sealed") -> OlderVersion:
    return OlderVersion(number, 1, 1000 * number, sealed)


@settings(max_examples=50)
@given(sealed=st.lists(SEALED, max_size=30), kept=st.integers(0, 12))
def test_the_last_versions_are_kept(sealed: list[bytes], kept: int) -> None:
    """Of any versions the newest so many come out, as they went in and in their order."""
    versions = [version(number, text) for number, text in enumerate(sealed, 1)]
    packed = None
    for each in versions:
        packed = add(packed, each, kept)
    assert unpack(packed) == (versions[-kept:] if kept else [])
    assert (packed is None) == (not unpack(packed))


def test_a_lowered_number_holds_from_the_next_version_on() -> None:
    """What is beyond a lower setting goes with the next save, and all of it where none is kept."""
    packed = None
    for number in range(1, 9):
        packed = add(packed, version(number), 10)
    assert [each.version for each in unpack(packed)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [each.version for each in unpack(add(packed, version(9), 2))] == [8, 9]
    assert add(packed, version(9), 0) is None


def test_a_version_is_found_by_its_number() -> None:
    """Each that is kept is found, and no other."""
    packed = add(add(None, version(1, b"one"), 10), version(2, b"two"), 10)
    assert find(packed, 1) == version(1, b"one")
    assert find(packed, 2) == version(2, b"two")
    assert [find(packed, number) for number in (0, 3, 2**53)] == [None] * 3
    assert find(None, 1) is None


@given(st.lists(st.builds(OlderVersion, U64, U32, U64, SEALED), max_size=12))
def test_what_is_packed_is_what_was_added(versions: list[OlderVersion]) -> None:
    """Versions packed at once, as when all are sealed again, come out as they went in."""
    assert unpack(pack(versions)) == versions
    assert (pack(versions) is None) == (not versions)
    packed = None
    for number in range(1, 6):
        packed = add(packed, version(number), 10)
    assert pack(unpack(packed)) == packed


@pytest.mark.parametrize("cut", range(1, 24))
def test_what_is_cut_short_is_refused(cut: int) -> None:
    """A value that ends within a head is an error, and never taken for fewer versions."""
    packed = add(add(None, version(1), 10), version(2), 10)
    assert packed is not None
    with pytest.raises(struct.error):
        unpack(packed[: 24 + 6 + cut])
