"""What a token looks like, and the files that applications keep theirs in.

A token is an application's name and password in one. It becomes a `Secret` as soon as it is read,
and no error repeats it or whatever was found instead of it.
"""

import os
import re

from pwserver import trust
from pwserver.errors import ConfigError
from pwserver.secret import Secret

TOKEN_PREFIX = "pwserver_"
"""With it, people and programs that scan for leaked secrets recognise a token."""

TOKEN = re.compile(TOKEN_PREFIX + "[A-Za-z0-9_-]{43}")
"""The prefix and 256 random bits in base64url."""

TOKEN_FORM = f"{TOKEN_PREFIX} and 43 letters, digits, - or _"

_FILE_BYTES_MAX = 64 * 1024


def is_token(text: str) -> bool:
    """Tell whether a text has the form of a token."""
    return TOKEN.fullmatch(text) is not None


def read_token(path: str | os.PathLike[str]) -> Secret[str]:
    """Return the token in a file of one line, or raise `ConfigError`."""
    if TOKEN.search(os.fspath(path)):  # a mistake that the error must not repeat
        raise ConfigError("token_file is a token; write it into a file, and give the file's name.")
    data = trust.read(path, "token_file", ConfigError, bytes_max=_FILE_BYTES_MAX, private=True)
    text = data.decode("utf-8-sig", "replace").strip()  # some editors begin with a mark
    name = os.fspath(path)
    if not text:
        raise ConfigError(f"token_file {name} is empty; write the application's token into it.")
    if not is_token(text):
        raise ConfigError(f"token_file {name} must hold one line, a token: {TOKEN_FORM}.")
    return Secret(text)
