"""The commands about the service as a whole: strength of a password, number of users, state.

`demo` starts a service of its own, to show how a main application talks to it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from pwserver.cli import output, prompts
from pwserver.cli.book import DEFAULTS, Json, Where, client
from pwserver.cli.demo import demonstration
from pwserver.errors import ExitCode, StorageFailed


def strength(*, as_json: Json = False, settings: Where = DEFAULTS) -> ExitCode:
    """Print how strong a password is, from 0 to 4; it is typed, or read from standard input."""
    with client(settings) as book:
        found = book.check_password(prompts.password())
    sentences = [f"Strength {found.strength} of 4.", found.warning, *found.suggestions]
    output.done(" ".join(filter(None, sentences)), dataclasses.asdict(found), as_json=as_json)
    return ExitCode.OK


def count(*, as_json: Json = False, settings: Where = DEFAULTS) -> ExitCode:
    """Print the number of users."""
    with client(settings) as book:
        number = book.number_of_users()
    sentence = f"{number:,} user{'' if number == 1 else 's'}"
    words = sentence if output.on_terminal() else str(number)
    output.plain([words], {"number_of_users": number}, as_json=as_json)
    return ExitCode.OK


def status(*, as_json: Json = False, settings: Where = DEFAULTS) -> ExitCode:
    """Print the state of the service; exit with 6 if it can save nothing now."""
    with client(settings) as book:
        found = book.status()
    about: dict[str, Any] = {
        "number_of_users": found.number_of_users,
        "workers": found.workers,
        "uptime_s": found.uptime_s,
    }
    if found.token_expires is not None:
        about["token_expires"] = found.token_expires
    if found.write_error is not None:
        about["write_error"] = found.write_error
        about["write_error_since"] = found.write_error_since
    for name in ("backup_age_s", "backup_error", "backup_error_since"):
        if (value := getattr(found, name)) is not None:
            about[name] = value
    if as_json or not output.on_terminal():
        output.record(about | {"parts": found.parts}, as_json=True)
    else:
        output.record(about | found.parts, as_json=False)
    if found.write_error is not None:
        raise StorageFailed(f"nothing can be saved. {found.write_error}")
    return ExitCode.OK


def ping(*, as_json: Json = False, settings: Where = DEFAULTS) -> ExitCode:
    """Check that the service is alive."""
    with client(settings) as book:
        book.ping()
    output.plain(["Alive!"], {"alive": True}, as_json=as_json)
    return ExitCode.OK


def demo(*, as_json: Json = False) -> ExitCode:
    """Show the messages of a main application and the answers of a service.

    It starts a service of its own, with a book in a temporary folder, and removes both at the end.
    The messages are sent as `json.dumps` makes them, to show that nothing else is needed.
    """
    with contextlib.closing(demonstration()) as exchanges:
        for sent, received in exchanges:
            lines = [f"sent:     {json.dumps(sent)}", f"received: {json.dumps(received)}"]
            output.plain(lines, {"sent": sent, "received": received}, as_json=as_json)
    return ExitCode.OK


COMMANDS: tuple[Callable[..., ExitCode], ...] = (strength, count, status, ping, demo)
"""In the order in which `pwserver --help` lists them."""
