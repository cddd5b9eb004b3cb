"""The commands that talk to a running service, each a function over one method of the client.

A password is never an argument, which other users of the machine can see. One is printed only where
`--show` asks for it, or where standard output is not a terminal: then a program, or a pipe to the
clipboard, asked for it.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

from pwserver import ask, show
from pwserver.access import access_to
from pwserver.client import Client
from pwserver.config import ClientSettings
from pwserver.demo import demonstrate
from pwserver.errors import ConfigError, ExitCode
from pwserver.results import Saved

_TABLE_ROWS_MAX = 1000
"""Users in a table, where no limit is given: nobody reads more, and a pipe gets all."""

FLAT = Parameter(name="*", show_default=True, show_env_var=True)
"""Makes each field of a settings class a flag, an environment variable and a TOML key."""

_Settings = Annotated[ClientSettings, FLAT]
_DEFAULTS = ClientSettings()
_Name = Annotated[str, Parameter(help="The username.")]
Json = Annotated[
    bool, Parameter(name="--json", help="Print JSON, one object a line; so does a pipe.")
]
_Show = Annotated[
    bool,
    Parameter(name="--show", help="Print the password, which a terminal does not show else."),
]
_Raw = Annotated[bool, Parameter(help="Print the password alone, for a pipe to a clipboard.")]
_Yes = Annotated[bool, Parameter(help="Do it without asking.")]
_Labels = Annotated[
    list[str] | None,
    Parameter(name="--label", help="A label of the user; may be given several times."),
]


def save(
    *,
    username: str | None = None,
    labels: _Labels = None,
    as_json: Json = False,
    settings: _Settings = _DEFAULTS,
) -> ExitCode:
    """Save a password, typed at a hidden prompt or read from standard input.

    Parameters
    ----------
    username
        Whose password it is. Not given: it gets a user of its own, with a generated name.
    """
    with _client(settings) as book:
        saved = book.save_password(ask.password(), username=username, labels=labels)
    if saved.username is None and not as_json:
        print("Password saved!")
    else:
        _print_saved("Password saved!", saved, as_json)
    return ExitCode.OK


def get(
    username: _Name,
    /,
    *,
    version: int | None = None,
    shown: _Show = False,
    raw: _Raw = False,
    as_json: Json = False,
    settings: _Settings = _DEFAULTS,
) -> ExitCode:
    """Read a user's password.

    Parameters
    ----------
    version
        An older version. Not given: the newest.
    """
    _check_raw(raw, shown)
    with _client(settings) as book:
        found = book.get_password(username, version=version)
    about = {
        "username": found.username,
        "version": found.version,
        "time_saved": found.time_saved,
    }
    _print_password(found.password, about, shown=shown, raw=raw, as_json=as_json)
    return ExitCode.OK


def verify(
    username: _Name, /, *, as_json: Json = False, settings: _Settings = _DEFAULTS
) -> ExitCode:
    """Tell whether a password, typed or from standard input, is a user's; if not, exit with 1."""
    with _client(settings) as book:
        valid = book.verify_password(username, ask.password())
    sentence = "It is right." if valid else "It is wrong, or there is no such user."
    show.done(sentence, {"username": username, "valid": valid}, as_json=as_json)
    return ExitCode.OK if valid else ExitCode.FAILED


def list_(  # cyclopts calls it `list`
    *,
    prefix: str = "",
    label: str | None = None,
    limit: int | None = None,
    as_json: Json = False,
    settings: _Settings = _DEFAULTS,
) -> ExitCode:
    """List users by name, without their passwords.

    Parameters
    ----------
    prefix
        Only users whose names begin so.
    label
        Only users that have this label.
    limit
        How many at the most. Not given: all, and in a table the first 1,000.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit must be 1 or more.")
    in_table = show.on_terminal() and not as_json
    most = limit if limit is not None or not in_table else _TABLE_ROWS_MAX
    with _client(settings) as book:
        users = book.users(prefix=prefix, label=label)
        show.records(
            (
                {
                    "username": user.username,
                    "labels": user.labels,
                    "version": user.version,
                    "time_saved": user.time_saved,
                }
                for user in itertools.islice(users, most)
            ),
            as_json=as_json,
        )
        if in_table and limit is None and next(users, None) is not None:
            print("There are more: narrow them down with --prefix, or ask for more with --limit.")
    return ExitCode.OK


def history(
    username: _Name, /, *, as_json: Json = False, settings: _Settings = _DEFAULTS
) -> ExitCode:
    """List the versions that are kept of a user's password, without the passwords."""
    with _client(settings) as book:
        versions = book.password_history(username)
    show.records(
        ({"version": each.version, "time_saved": each.time_saved} for each in versions),
        as_json=as_json,
    )
    return ExitCode.OK


def restore(
    username: _Name,
    version: Annotated[int, Parameter(help="The version, as `history` lists it.")],
    /,
    *,
    as_json: Json = False,
    settings: _Settings = _DEFAULTS,
) -> ExitCode:
    """Make an older version of a user's password the newest again."""
    with _client(settings) as book:
        saved = book.restore_password(username, version)
    _print_saved("Password restored!", saved, as_json)
    return ExitCode.OK


def label(
    username: _Name,
    /,
    *labels: Annotated[str, Parameter(help="The labels. None: the user has none any more.")],
    as_json: Json = False,
    settings: _Settings = _DEFAULTS,
) -> ExitCode:
    """Set a user's labels, in place of those it has."""
    with _client(settings) as book:
        now = book.label_user(username, labels)
    show.done(
        f"User labelled! Labels of {username}: {', '.join(now) or 'none'}.",
        {"username": username, "labels": now},
        as_json=as_json,
    )
    return ExitCode.OK


def delete(
    username: _Name,
    /,
    *,
    yes: _Yes = False,
    as_json: Json = False,
    settings: _Settings = _DEFAULTS,
) -> ExitCode:
    """Delete a user with all versions of its password."""
    if not yes:
        ask.confirm(f"Delete {username!r} with all versions of its password?")
    with _client(settings) as book:
        book.delete_user(username)
    show.done("User deleted!", {"username": username, "deleted": True}, as_json=as_json)
    return ExitCode.OK


def generate(
    *,
    length: int | None = None,
    alphabet: str | None = None,
    username: str | None = None,
    labels: _Labels = None,
    shown: _Show = False,
    raw: _Raw = False,
    as_json: Json = False,
    settings: _Settings = _DEFAULTS,
) -> ExitCode:
    """Make a random password, and save it if there is a username.

    Parameters
    ----------
    length
        Its characters. Not given: 20.
    alphabet
        What it is made of. Not given: letters and digits.
    username
        Whose password it becomes. Not given: it is not saved.
    """
    _check_raw(raw, shown)
    if username is None and show.on_terminal() and not shown:
        raise ConfigError("the password would be lost: add --show, or --username to save it.")
    with _client(settings) as book:
        made = book.generate_password(
            length=length, alphabet=alphabet, username=username, labels=labels
        )
    about = {} if username is None else {"username": made.username, "version": made.version}
    _print_password(made.password, about, shown=shown, raw=raw, as_json=as_json)
    return ExitCode.OK


def strength(*, as_json: Json = False, settings: _Settings = _DEFAULTS) -> ExitCode:
    """Tell how strong a password is, from 0 to 4; it is typed or read from standard input."""
    with _client(settings) as book:
        found = book.check_password(ask.password())
    sentences = [f"Strength {found.strength} of 4.", found.warning, *found.suggestions]
    show.done(" ".join(filter(None, sentences)), dataclasses.asdict(found), as_json=as_json)
    return ExitCode.OK


def count(settings: _Settings = _DEFAULTS) -> ExitCode:
    """Print how many users there are."""
    with _client(settings) as book:
        number = book.number_of_users()
    if show.on_terminal():
        print(f"{number:,} user{'' if number == 1 else 's'}")
    else:
        print(number)
    return ExitCode.OK


def status(*, as_json: Json = False, settings: _Settings = _DEFAULTS) -> ExitCode:
    """Tell how the service is doing."""
    with _client(settings) as book:
        found = book.status()
    about = {
        "number_of_users": found.number_of_users,
        "workers": found.workers,
        "uptime_s": found.uptime_s,
    }
    if as_json or not show.on_terminal():
        show.record(about | {"parts": found.parts}, as_json=True)
    else:
        show.record(about | found.parts, as_json=False)
    return ExitCode.OK


def ping(settings: _Settings = _DEFAULTS) -> ExitCode:
    """Tell whether the service is alive."""
    with _client(settings) as book:
        book.ping()
    print("Alive!")
    return ExitCode.OK


def demo(settings: _Settings = _DEFAULTS) -> ExitCode:
    """Show what a main application says to the service, and what it answers.

    Saves one password, "abc123", as an example does. The messages are sent just as `json.dumps`
    makes them, to show that nothing else is needed.
    """
    demonstrate(access_to(settings.service_url, **_options(settings)), settings.timeout_s)
    return ExitCode.OK


def _client(settings: ClientSettings) -> Client:
    return Client(settings.service_url, timeout_s=settings.timeout_s, **_options(settings))


def _options(settings: ClientSettings) -> dict[str, Any]:
    """Return what a client is told besides the URL; settings that are not set are empty."""
    names = ("token_file", "ca_file", "client_cert", "client_key")
    return {name: getattr(settings, name) for name in names}


def _print_saved(words: str, saved: Saved, as_json: bool) -> None:
    if saved.version is None:
        sentence = f"It is the newest of {saved.username}."
    else:
        sentence = f"{saved.username} is at version {saved.version}."
    show.done(
        f"{words} {sentence}",
        {"username": saved.username, "version": saved.version},
        as_json=as_json,
    )


def _print_password(
    password: str, about: dict[str, Any], *, shown: bool, raw: bool, as_json: bool
) -> None:
    """Print a password as far as it is to be seen, and what there is to say about it."""
    if raw:
        show.text(password)
    elif shown or not show.on_terminal():
        show.record(about | {"password": password}, as_json=as_json)
    else:
        show.record(about if as_json else about | {"password": show.HIDDEN}, as_json=as_json)


def _check_raw(raw: bool, shown: bool) -> None:
    if raw and show.on_terminal() and not shown:
        raise ConfigError("a terminal does not show passwords: add --show.")


COMMANDS: tuple[Callable[..., ExitCode], ...] = (
    save,
    get,
    verify,
    list_,
    history,
    restore,
    label,
    delete,
    generate,
    strength,
    count,
    status,
    ping,
    demo,
)
"""In the order in which `pwserver --help` lists them."""
