"""Names: which are taken, in which form, and the names that the service makes itself."""

import unicodedata
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwserver.errors import InvalidMessage
from pwserver.wire.messages import USERNAME_LENGTH_MAX
from workers.book.names import (
    ID_MAX,
    composed,
    first_generated_id,
    generated_id,
    generated_name,
    normal,
    refuse_invisible,
)

REFUSED: Final = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
IDS = st.integers(0, ID_MAX)
BLANK = {
    *"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\u2800",
    *"\U00013441\U00013442\U00016fe4\U0001d159",
    *map(chr, range(0xFE00, 0xFE10)),
    *map(chr, range(0xE0100, 0xE01F0)),
}
VISIBLE = st.text(
    st.characters(exclude_categories=REFUSED).filter(lambda character: character not in BLANK),
    min_size=1,
    max_size=128,
)

quick = settings(deadline=None, max_examples=100)

# --- What a name may look like. ---


@pytest.mark.parametrize(
    "name",
    ["alice", "a", "Alice Smith", "o'neil@example.com", "!", "~", "été", "Ωmega", "名前", "😀",
     "a\u00a0b", "ü" * 128, "नमस्ते", "שלום"],
)  # fmt: skip
def test_what_can_be_seen_is_taken(name: str) -> None:
    """Names in any language are kept as they are, with white space within them."""
    assert normal(name, "username") == name


@pytest.mark.parametrize(
    ("typed", "kept"),
    [("e\u0301te\u0301", "\u00e9t\u00e9"), ("\u212b", "\u00c5"), ("\u1100\u1161", "\uac00"),
     ("q\u0323\u0307", "q\u0323\u0307"), ("q\u0307\u0323", "q\u0323\u0307")],
)  # fmt: skip
def test_the_same_letters_are_the_same_name(typed: str, kept: str) -> None:
    """However a keyboard composes letters, the name is the one in Unicode's normal form C."""
    assert normal(typed, "username") == composed(typed) == kept


@pytest.mark.parametrize("name", ["ﬁ", "²", "Ａ", "K\u0327"])  # noqa: RUF001
def test_letters_that_are_not_the_same_are_told_apart(name: str) -> None:
    """Only what is the same text is one name: width, ligatures and case are differences."""
    assert normal(name, "username") == unicodedata.normalize("NFC", name)
    assert normal(name, "username") != unicodedata.normalize("NFKC", name).casefold()


UNSEEN = {
    "line break": "\n", "tab": "\t", "escape": "\x1b", "delete": "\x7f", "next line": "\x85",
    "soft hyphen": "\u00ad", "zero-width space": "\u200b", "zero-width joiner": "\u200d",
    "right-to-left mark": "\u200f", "right-to-left override": "\u202e", "isolate": "\u2066",
    "byte order mark": "\ufeff", "tag": "\U000e0041", "line separator": "\u2028",
    "paragraph separator": "\u2029", "unassigned": "\u0378", "noncharacter": "\uffff",
    "the last code point": "\U0010ffff", "private": "\ue000", "private plane": "\U00100000",
    "surrogate": "\ud800", "grapheme joiner": "\u034f", "Hangul filler": "\u3164",
    "Hangul initial filler": "\u115f", "Hangul vowel filler": "\u1160", "halfwidth": "\uffa0",
    "Braille blank": "\u2800", "variation selector": "\ufe00", "emoji selector": "\ufe0f",
    "ideographic variation": "\U000e0100", "Mongolian selector": "\u180b",
    "Khmer vowel": "\u17b4", "null notehead": "\U0001d159", "Khitan filler": "\U00016fe4",
}  # fmt: skip


@pytest.mark.parametrize("what", UNSEEN)
def test_what_cannot_be_seen_is_refused(what: str) -> None:
    """A character that nobody sees is refused wherever it stands, with the field's name only."""
    for name in (f"ali{UNSEEN[what]}ce", f"{UNSEEN[what]}alice", f"é{UNSEEN[what]}", UNSEEN[what]):
        with pytest.raises(InvalidMessage, match=r'^"labels" holds a character that'):
            normal(name, "labels")
        with pytest.raises(InvalidMessage) as refusal:
            refuse_invisible(name, "alphabet")
        assert "ali" not in str(refusal.value)


EMOJI = {
    "heart": "\u2764\ufe0f", "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "rainbow flag": "\U0001f3f3\ufe0f\u200d\U0001f308", "keycap": "1\ufe0f\u20e3",
    "health worker": "\U0001f469\U0001f3fd\u200d\u2695\ufe0f", "exclamation": "\u203c\ufe0f",
}  # fmt: skip


@pytest.mark.parametrize("what", EMOJI)
def test_what_joins_emoji_is_taken_in_labels(what: str) -> None:
    """As keyboards write them, they are labels; in a username nobody could tell two apart."""
    for label in (EMOJI[what], f"work {EMOJI[what]} and {EMOJI[what]}"):
        assert normal(label, "labels") == label
    with pytest.raises(InvalidMessage, match="cannot be seen"):
        normal(EMOJI[what], "username")


@pytest.mark.parametrize(
    "label",
    ["\u200d", "\ufe0f", "a\ufe0f", "a\u200d\U0001f469", "\U0001f469\u200d", "\U0001f469\u200da",
     "\U0001f469\u200d\u200d\U0001f469", "\u2764\ufe0e", "\u4e2d\U000e0100"],
)  # fmt: skip
def test_what_joins_nothing_is_refused_in_labels(label: str) -> None:
    """A letter with a selector, or a joiner at an end, is seen by nobody."""
    with pytest.raises(InvalidMessage, match="cannot be seen"):
        normal(label, "labels")


def test_the_refused_categories_are_these() -> None:
    """Each character is taken or refused by its category, and some because they are blank."""
    for code in range(0x110000):
        character = chr(code)
        try:
            refuse_invisible(character, "username")
            taken = True
        except InvalidMessage:
            taken = False
        seen = unicodedata.category(character) not in REFUSED and character not in BLANK
        assert taken == seen, hex(code)


def test_what_is_called_a_filler_or_blank_is_refused() -> None:
    """No character that Unicode names so is missing, but those that show something of it."""
    shown = {
        "\ua8f9",
        "\U00010af6",
        "\U0001144e",
        "\U00011945",
        "\U00011f48",
    }  # lines that fill a gap
    named = {
        character
        for character in map(chr, range(0x20000))
        if unicodedata.name(character, "").endswith((" FILLER", " BLANK"))
    }
    assert named - shown <= BLANK


SPACES = [c for c in map(chr, range(0x3001)) if unicodedata.category(c) == "Zs"]


@pytest.mark.parametrize("space", SPACES, ids=ascii)
def test_white_space_at_the_ends_is_refused(space: str) -> None:
    """A name neither begins nor ends with any of Unicode's spaces; within it they are taken."""
    for name in (f"{space}alice", f"alice{space}", space):
        with pytest.raises(InvalidMessage, match=r'^"label" begins or ends with white space'):
            normal(name, "label")
    assert normal(f"al{space}ice", "label") == composed(f"al{space}ice")


@quick
@given(VISIBLE)
def test_a_kept_name_stays_the_same(name: str) -> None:
    """What a reply shows can be sent back: the form that is kept is taken, and kept as it is."""
    try:
        kept = normal(name, "username")
    except InvalidMessage:
        assert name != name.strip()
        return
    assert normal(kept, "username") == kept == unicodedata.normalize("NFC", name)


def test_a_kept_name_is_no_longer_than_a_name_may_be() -> None:
    """A name that normal form C makes longer is refused where nobody could send it back.

    Some letters have no composed form, so that up to three characters are kept for one.
    """
    for letter in ("\u0958", "\ufb2c", "\U0001d160"):
        assert len(composed(letter)) > 1
        try:
            kept = normal(letter * USERNAME_LENGTH_MAX, "username")
        except InvalidMessage:
            continue
        assert len(kept) <= USERNAME_LENGTH_MAX


# --- Generated names. ---


@quick
@given(IDS)
def test_a_generated_name_is_its_id(user_id: int) -> None:
    """The id is found in the name again, and the name is one that is taken as it is."""
    name = generated_name(user_id)
    assert generated_id(name) == user_id
    assert normal(name, "username") == name


@quick
@given(IDS, IDS)
def test_generated_names_sort_as_ids_do(first: int, second: int) -> None:
    """Names are another way to write the ids: in the same order, and no two the same."""
    one, other = generated_name(first), generated_name(second)
    assert (one < other, one == other) == (first < second, first == second)


@quick
@given(IDS)
def test_generated_names_are_of_one_form(user_id: int) -> None:
    """A name is `user-` and 13 letters and digits without i, l, o and u, which say the id."""
    prefix, _, digits = generated_name(user_id).partition("-")
    assert (prefix, len(digits)) == ("user", 13)
    value = 0
    for digit in digits:
        value = value * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(digit)
    assert value == user_id


def test_generated_names_at_the_ends() -> None:
    """The smallest and the greatest id have names of the same length."""
    assert generated_name(0) == "user-0000000000000"
    assert generated_name(2**63 - 1) == "user-7zzzzzzzzzzzz"


@pytest.mark.parametrize(
    "name",
    ["", "user-", "alice", "user-bob", "user-000000000000", "user-00000000000000",
     "user-8000000000000", "user-zzzzzzzzzzzzz", "user-000000000000I", "user-000000000000i",
     "user-000000000000u", "user-000000000000A", "User-0000000000000", "user-0000000000000\n",
     " user-0000000000000", "user-00000000000-0", "user-\u0660000000000000", "0000000000000"],
)  # fmt: skip
def test_other_names_have_no_id(name: str) -> None:
    """A name that is not exactly what the service makes is a name like any other."""
    assert generated_id(name) is None


@quick
@given(st.text("user-0178zabi\u0660", max_size=20))
def test_an_id_has_one_name_only(name: str) -> None:
    """No two names give the same id."""
    user_id = generated_id(name)
    assert user_id is None or generated_name(user_id) == name


NEAR = st.builds(
    lambda user_id, length, ending: generated_name(user_id)[:length] + ending,
    IDS,
    st.integers(0, 18),
    st.text("0z~u\u00e9", max_size=2),
)


@quick
@given(NEAR | st.text(max_size=20))
def test_the_first_generated_name_behind_a_name(name: str) -> None:
    """It is the least id whose generated name is not before the name: none is left out."""
    found = first_generated_id(name)
    assert found == ID_MAX or generated_name(found) >= name
    assert found == 0 or generated_name(found - 1) < name


@pytest.mark.parametrize(
    ("name", "first"),
    [("", 0), ("alice", 0), ("user-", 0), ("user-0000000000000", 0), ("user-0000000000000!", 1),
     ("user-000000000000z", 31), ("user-000000000000zz", 32), ("user-1", 1 << 60),
     ("user-8", ID_MAX), ("user-bob", ID_MAX), ("v", ID_MAX), ("é", ID_MAX)],
)  # fmt: skip
def test_the_first_generated_name_by_example(name: str, first: int) -> None:
    """Names before all generated ones, between them and behind them have the id that fits."""
    assert first_generated_id(name) == first
