"""What is read of files that other password managers export, and of files that they do not."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pwserver.errors import ConfigError
from pwserver.moving import reading
from pwserver.moving.entries import Export, Finding
from pwserver.moving.reading import FILE_BYTES_MAX, recognised
from tests.support import exports
from tests.support.exports import Login

LOGINS = [
    Login(folder="Work/Clients", totp="otpauth://totp/x?secret=JBSWY3DP", notes="a\nnote"),
    Login("Bank, the", "bob", 'with "quotes", and\na newline', "", ""),
]
SECRET = "hunter2"


def read(text: str) -> Export:
    """Return what is read of a text."""
    return recognised(text.encode(), "FILE")


def refusal(content: bytes) -> str:
    """Return the sentence with which a file is refused."""
    with pytest.raises(ConfigError) as refused:
        recognised(content, "FILE")
    assert SECRET not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (exports.bitwarden, "Bitwarden CSV"),
        (exports.keepassxc, "KeePassXC CSV"),
        (exports.one_password, "1Password CSV"),
        (exports.bitwarden_json, "Bitwarden JSON"),
    ],
)
def test_formats_with_folders(make: Callable[[Iterable[Login]], str], name: str) -> None:
    """Titles, logins, passwords, folders, and the number of what is left out, of each kind."""
    export = read(make(LOGINS))
    assert export.format == name
    assert [(each.title, each.login, each.password) for each in export.entries] == [
        each[:3] for each in LOGINS
    ]
    assert [each.labels for each in export.entries] == [("Work/Clients",), ()]
    assert +export.left_out == {"notes": 1, "TOTP seeds": 1, "web addresses": 1}
    assert export.findings == []


@pytest.mark.parametrize(
    ("make", "name", "title"),
    [(exports.chrome, "Chrome CSV", "Example"), (exports.firefox, "Firefox CSV", "")],
)
def test_formats_of_browsers(make: Callable[[Iterable[Login]], str], name: str, title: str) -> None:
    """They have no folders, and Firefox has no titles."""
    export = read(make(LOGINS))
    assert export.format == name
    assert [each.password for each in export.entries] == [each.password for each in LOGINS]
    assert (export.entries[0].title, export.entries[0].labels) == (title, ())
    assert export.entries[0].url == LOGINS[0].url


def test_an_organization_of_bitwarden_has_collections() -> None:
    """Each is a label."""
    text = exports.bitwarden([Login(folder="Ops,Web")], exports.BITWARDEN_ORGANIZATION)
    export = read(text)
    assert export.format == "Bitwarden CSV of an organization"
    assert export.entries[0].labels == ("Ops", "Web")


def test_an_older_export_lacks_columns() -> None:
    """What is not needed may be missing, and may be in another order."""
    export = read("password,url,name,username\none,https://example.com,Example,alice\n")
    (entry,) = export.entries
    assert (export.format, entry.title, entry.login) == ("Chrome CSV", "Example", "alice")


def test_a_column_that_is_not_known_is_counted() -> None:
    """What other managers have besides is not left out silently."""
    header = "url,username,password,totp,extra,name,grouping,fav"
    row = ["https://example.com", "alice", "one", "", "a note", "Example", "Work", "0"]
    export = read(exports.csv_of(header, [row]))
    assert +export.left_out == {
        "column 'extra'": 1,
        "column 'grouping'": 1,
        "column 'fav'": 1,
        "web addresses": 1,
    }


def test_items_of_bitwarden_that_are_no_logins() -> None:
    """They are counted by their kind, and so is what a login has besides its password."""
    login = {
        "type": 1,
        "name": "Example",
        "login": {
            "username": "alice",
            "password": None,
            "uris": [{"uri": "https://a.example"}, {"uri": "https://b.example"}],
            "fido2Credentials": [{"credentialId": "x"}],
        },
        "fields": [{"name": "PIN", "value": "1"}, {"name": "x", "value": "2"}],
        "passwordHistory": [{"password": SECRET}],
        "attachments": [{"fileName": "x"}],
    }
    others = [{"type": kind, "name": "x"} for kind in (2, 3, 3, 4, 5)]
    export = read(exports.bitwarden_json([Login()], login, *others))
    assert len(export.entries) == 1
    assert +export.left_out == {
        "secure notes": 1,
        "cards": 2,
        "identities": 1,
        "SSH keys": 1,
        "passkeys": 1,
        "custom fields": 2,
        "older passwords": 1,
        "attachments": 1,
        "web addresses": 3,
        "logins without a password": 1,
    }


def test_rows_of_bitwarden_that_are_no_logins() -> None:
    """The CSV has secure notes."""
    note = ["", "", "note", "A note", "text", "", "0", "", "", "", ""]
    export = read(exports.csv_of(exports.BITWARDEN, [note]))
    assert (export.entries, +export.left_out) == ([], {"secure notes": 1})


def test_json_lines_are_our_own() -> None:
    """Their names are used as they are; what else a line has is ignored."""
    text = json.dumps({"username": "a b", "password": SECRET, "labels": ["x"], "version": 7})
    export = read(f"{text}\n\n")
    assert (export.format, export.template) == ("pwserver JSON lines", "{name}")
    assert [(each.title, each.labels) for each in export.entries] == [("a b", ("x",))]


# --- Lines that cannot be read. ---


def test_broken_rows_are_named_by_line() -> None:
    """A line is where a row begins, also after a quoted newline; nothing of it is repeated."""
    rows = [
        "name,url,username,password",
        f'A,https://a.example,alice,"{SECRET}',  # with a newline in it
        'two"',
        f"B,{SECRET}",
        f'C,https://c.example,"bob"x,{SECRET}',
        "name,url,username,password",
        "",
        f"D,https://d.example,dora,{SECRET}",
        f'E,https://e.example,"{SECRET}',
    ]
    export = read("\r\n".join(rows))
    assert [(each.line, each.login) for each in export.entries] == [(2, "alice"), (8, "dora")]
    assert export.entries[0].password == f"{SECRET}\r\ntwo"
    assert export.findings == [
        Finding(4, "broken", "has 2 fields, and the header has 4."),
        Finding(5, "broken", "has a quote in the wrong place."),
        Finding(6, "broken", "is the header again."),
        Finding(9, "broken", "has a quote that never ends, so nothing from there on was read."),
    ]


def test_broken_items_and_lines_of_json() -> None:
    """One spoils no other."""
    export = read(exports.bitwarden_json([Login()], {"type": "x", "name": SECRET}, {"type": 99}))
    assert len(export.entries) == 1
    assert export.findings == [
        Finding(2, "broken", "is not as Bitwarden writes an item."),
        Finding(3, "broken", "is of a kind that is not known."),
    ]
    export = read(f'{{"username": "a", "passw\n{exports.json_lines([Login()])}')
    assert [each.line for each in export.entries] == [2]
    assert export.findings == [
        Finding(1, "broken", "is not a JSON object with a username and a password.")
    ]


# --- Encodings. ---


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_says_the_encoding(encoding: str) -> None:
    """UTF-16 is read as well as UTF-8."""
    text = exports.chrome([Login("Grüße", "älice", "ö")])
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    export = recognised((mark + text).encode(encoding), "FILE")
    (entry,) = export.entries
    assert (entry.title, entry.login, entry.password) == ("Grüße", "älice", "ö")


# --- Files that are refused. ---


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "FILE is empty."),
        (b" \n", "FILE is empty."),
        (b"\xef\xbb\xbf", "FILE is empty."),
        (bytes(range(256)), "FILE is no text in UTF-8; is it a binary file?"),
        (b"name,url\0", "FILE is no text in UTF-8; is it a binary file?"),
        (b"\xff\xfea", "FILE is no text in UTF-16-LE; is it a binary file?"),
        (b"PK\x03\x04...", "FILE is a ZIP archive; 1Password exports CSV too."),
        (
            b"\x03\xd9\xa2\x9a...",
            "FILE is a KeePass database; let KeePassXC export it as CSV.",
        ),
        (
            b'{"encrypted": true, "passwordProtected": true, "data": "hunter2"}',
            "FILE is an encrypted export of Bitwarden, which only Bitwarden can read. Export "
            "again with the file format .json, not .json (Encrypted).",
        ),
        (
            b"name,url,username,password,password\na,b,c,hunter2,e\n",
            "FILE has the column 'password' twice, and nothing says which one is meant. Nothing "
            "was imported.",
        ),
    ],
)
def test_what_is_no_export_is_refused(content: bytes, sentence: str) -> None:
    """One plain sentence says what it is."""
    assert refusal(content) == sentence


@pytest.mark.parametrize(
    "content",
    [
        b"alice,hunter2\n",
        b'"never ends\n',
        b'{"alice": "hunter2"}',
        b"[1, 2]",
        b"[" * 100_000,
        b'{"items": "hunter2"}',
    ],
)
def test_an_unknown_format_is_refused(content: bytes) -> None:
    """The sentence names those that are known, and shows nothing of the file."""
    sentence = refusal(content)
    assert sentence.startswith("FILE is of no format that can be imported.")
    assert "Bitwarden JSON, pwserver JSON lines, Bitwarden CSV" in sentence


def test_a_line_of_two_gibibytes_is_refused(tmp_path: Path) -> None:
    """Nothing of it is read."""
    file = tmp_path / "long.csv"
    with open(file, "wb") as opened:
        opened.truncate(2 * 1024**3)
    with pytest.raises(ConfigError, match=r"has more than 268,435,456 bytes, which is the most"):
        reading.read(file)


def test_a_long_field_is_no_fault_of_the_file() -> None:
    """A note may be long: longer than Python's reader of CSV takes by itself."""
    export = read(exports.chrome([Login(notes="x" * 200_000)]))
    assert len(export.entries) == 1
    assert FILE_BYTES_MAX > 200_000


@pytest.mark.parametrize("name", ["missing.csv", "folder", "NUL\0"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    """It is missing, or a folder, or has a name that no file has."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read: |no file name has"):
        reading.read(tmp_path / name)
