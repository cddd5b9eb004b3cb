"""Reads a file that is to be imported: its bytes, its encoding, its format."""

import codecs
import os
import sys
from pathlib import Path

from pwserver.errors import ConfigError
from pwserver.moving import csv_files, json_files
from pwserver.moving.entries import Export

STANDARD_INPUT = "-"

FILE_BYTES_MAX = 256 * 1024 * 1024
"""The longest file: two million logins of an ordinary length. All of it is in memory at once."""

_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""The byte order marks, and the encoding that each announces."""

_NO_TEXT = (
    (b"\x03\xd9\xa2\x9a", "a KeePass database; let KeePassXC export it as CSV"),
    (b"PK\x03\x04", "a ZIP archive; 1Password exports CSV too"),
)
"""How files begin that people take for exports, and what to do."""


def read(file: Path) -> Export:
    """Return what is in a file; raise `ConfigError` if it cannot be read or is of no known format.

    The file `-` is standard input.
    """
    return recognised(_content(file), str(file))


def recognised(content: bytes, file: str) -> Export:
    """Return what is in the content of a file."""
    text = _text(content, file)
    if not text.strip():
        raise ConfigError(f"{file} is empty.")
    read_text = json_files.read if text.lstrip()[0] in "{[" else csv_files.read
    if (export := read_text(text, file)) is None:
        names = ["Bitwarden JSON", json_files.OWN, *(each.name for each in csv_files.FORMATS)]
        raise ConfigError(
            f"{file} is of no format that can be imported. Its first line must be the header that "
            f"the exporter writes. Known are: {', '.join(names)}."
        )
    return export


def _content(file: Path) -> bytes:
    try:
        if str(file) == STANDARD_INPUT:
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with open(file, "rb") as opened:
                # A longer one is not read at all: a sparse file takes nothing but memory.
                is_long = os.fstat(opened.fileno()).st_size > FILE_BYTES_MAX
                content = b"" if is_long else opened.read(FILE_BYTES_MAX + 1)
                if is_long:
                    raise _too_long(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise ConfigError("the name of the file holds a character that no file name has.") from None
    if len(content) > FILE_BYTES_MAX:
        raise _too_long(file)
    return content


def _too_long(file: Path) -> ConfigError:
    return ConfigError(
        f"{file} has more than {FILE_BYTES_MAX:,} bytes, which is the most. Split it."
    )


def _text(content: bytes, file: str) -> str:
    for beginning, what in _NO_TEXT:
        if content.startswith(beginning):
            raise ConfigError(f"{file} is {what}.")
    mark, encoding = next(
        (each for each in _ENCODINGS if content.startswith(each[0])), (b"", "utf-8")
    )
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        text = "\0"  # raised below: this error holds the content
    if "\0" in text:
        raise ConfigError(f"{file} is no text in {encoding.upper()}; is it a binary file?")
    return text
