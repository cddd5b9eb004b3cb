"""The command `config`: each setting as it is in effect, and where it comes from.

`main` reads the flags, the environment and the file, and notes here which of them each setting is
from. Nothing secret is printed: not a token in a URL, nor what might be a passphrase.
"""

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import ArgumentCollection

from pwserver.cli import output
from pwserver.cli.book import FLAT, Json
from pwserver.config import ClientSettings, Settings, is_credential
from pwserver.errors import ExitCode
from pwserver.tokens import TOKEN

HIDDEN = "(hidden)"

_KINDS = {"cli": "flag", "env": "environment"}
"""What cyclopts calls the sources. It calls the file by its name."""

_noted: dict[str, tuple[str, str]] = {}


@dataclass(frozen=True, kw_only=True)
class Everything(Settings, ClientSettings):
    """The settings of the service and those of the commands that talk to it."""

    def __post_init__(self) -> None:
        """Check the values of both."""
        Settings.__post_init__(self)
        ClientSettings.__post_init__(self)


def note_sources(arguments: ArgumentCollection) -> None:
    """Note where each setting comes from, once all of them are read."""
    _noted.clear()
    for argument in arguments:
        if argument.tokens:
            token = argument.tokens[0]
            kind = _KINDS.get(token.source, "file")
            name = argument.name.removeprefix("--").replace("-", "_")
            _noted[name] = kind, token.source if kind == "file" else token.keyword or ""


def config(
    *, as_json: Json = False, settings: Annotated[Everything, FLAT] = Everything()
) -> ExitCode:
    """Print each setting as it is in effect, and where it comes from; secrets are hidden.

    The source is a flag, the environment, a file, a credential of systemd, or the default.
    """
    records = []
    for setting in dataclasses.fields(settings):
        source, name = _noted.get(setting.name, ("default", ""))
        value = _shown(settings, setting.name)
        if source == "default" and setting.name in ("key_file", "key_passphrase"):
            source = "credential" if value and is_credential(value) else source
        records.append({"setting": setting.name, "value": value, "source": source, "from": name})
    output.records(records, as_json=as_json, least=["from"])
    return ExitCode.OK


def _shown(settings: Everything, name: str) -> Any:
    """Return a value as it may be seen; a path that is made from others, as it is made."""
    if name == "key_file":
        return str(settings.key_path)
    if name == "audit_file":
        return str(settings.audit_path)
    if name == "url":
        # Before the @ a token may stand, and nothing else; but some write a password there.
        return TOKEN.sub(HIDDEN, re.sub("(?<=//).*(?=@)", HIDDEN, settings.url))
    if name == "key_passphrase":
        source = settings.passphrase_source
        known = not source or source.startswith("fd:") or os.path.lexists(source)
        return source if known else HIDDEN  # somebody may have put the passphrase itself there
    return getattr(settings, name)
