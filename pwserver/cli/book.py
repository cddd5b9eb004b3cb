"""The commands that use the book of a running service; each calls a method of the client.

A password is never an argument, because other users of the machine can see arguments. It is printed
only with `--show`, or if standard output is not a terminal: then a program reads it, or a pipe to a
clipboard.
"""

import itertools
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter
from msgspec.structs import asdict

from pwserver.cli import output, prompts
from pwserver.client.results import Saved, User
from pwserver.client.sync import Client
from pwserver.config import ClientSettings, StoreSettings
from pwserver.errors import ConfigError, ExitCode, UnknownUser

_TABLE_ROWS_MAX = 1000
"""Users in a table if no limit is given; a pipe gets all of them."""

FLAT = Parameter(name="*", show_default=True, show_env_var=True)
"""Makes each field of a settings class a flag, an environment variable and a TOML key."""

Where = Annotated[ClientSettings, FLAT]
"""Where the service is, and who the client is."""

DEFAULTS = ClientSettings()

Store = Annotated[StoreSettings, FLAT]
"""Where the files of the service are."""

STORE_DEFAULTS = StoreSettings()
_Name = Annotated[str, Parameter(help="The username.")]
Json = Annotated[
    bool, Parameter(name="--json", help="Print JSON, one object a line; a pipe gets it anyway.")
]
_Show = Annotated[
    bool,
    Parameter(name="--show", help="Print the password; a terminal shows it only with this flag."),
]
_Raw = Annotated[bool, Parameter(help="Print the password alone, for a pipe to a clipboard.")]
Yes = Annotated[bool, Parameter(help="Do it without asking.")]
_Labels = Annotated[
    list[str] | None,
    Parameter(name="--label", help="A label of the user; may be given several times."),
]

_IfVersion = Annotated[
    int | None,
    Parameter(help="Save only if this is the user's newest version; 0: only as a new user."),
]


def save(
    *,
    username: str | None = None,
    labels: _Labels = None,
    if_version: _IfVersion = None,
    as_json: Json = False,
    settings: Where = DEFAULTS,
) -> ExitCode:
    """Save a password, typed twice at a hidden prompt or read from standard input.

    Parameters
    ----------
    username
        The user whose password it is. Not given: a new user with a generated name.
    """
    with client(settings) as book:
        password = prompts.password(twice=True)
        saved = book.save_password(
            password, username=username, labels=labels, if_version=if_version
        )
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
    settings: Where = DEFAULTS,
) -> ExitCode:
    """Read a user's password.

    Parameters
    ----------
    version
        An older version. Not given: the newest.
    """
    _check_raw(raw, shown)
    with client(settings) as book:
        found = book.get_password(username, version=version)
    about = {
        "username": found.username,
        "version": found.version,
        "time_saved": found.time_saved,
    }
    _print_password(found.password, about, shown=shown, raw=raw, as_json=as_json)
    return ExitCode.OK


def verify(username: _Name, /, *, as_json: Json = False, settings: Where = DEFAULTS) -> ExitCode:
    """Check whether a password, typed or from standard input, is a user's; exit with 1 if not."""
    with client(settings) as book:
        valid = book.verify_password(username, prompts.password())
    sentence = "It is right." if valid else "It is wrong, or there is no such user."
    output.done(sentence, {"username": username, "valid": valid}, as_json=as_json)
    return ExitCode.OK if valid else ExitCode.FAILED


def list_(  # cyclopts calls it `list`
    *,
    prefix: str = "",
    label: str | None = None,
    limit: int | None = None,
    as_json: Json = False,
    settings: Where = DEFAULTS,
) -> ExitCode:
    """List users by name, without their passwords.

    Parameters
    ----------
    prefix
        Only users whose names begin with this.
    label
        Only users that have this label.
    limit
        The most users to list. Not given: all, or the first 1,000 in a table.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit must be 1 or more.")
    in_table = output.on_terminal() and not as_json
    most = limit if limit is not None or not in_table else _TABLE_ROWS_MAX
    with client(settings) as book:
        users = book.users(prefix=prefix, label=label)
        output.records(map(asdict, itertools.islice(users, most)), as_json=as_json)
        if in_table and limit is None and next(users, None) is not None:
            print("There are more: narrow them down with --prefix, or ask for more with --limit.")
    return ExitCode.OK


def history(username: _Name, /, *, as_json: Json = False, settings: Where = DEFAULTS) -> ExitCode:
    """List the versions of a user's password that are kept, without the passwords."""
    with client(settings) as book:
        versions = book.password_history(username)
    output.records(map(asdict, versions), as_json=as_json)
    return ExitCode.OK


def restore(username: str, version: int, *, as_json: bool, settings: ClientSettings) -> ExitCode:
    """Make an older version of a user's password the newest again: a part of `restore`."""
    with client(settings) as book:
        saved = book.restore_password(username, version)
    _print_saved("Password restored!", saved, as_json)
    return ExitCode.OK


def show_(  # cyclopts calls it `show`
    username: _Name, /, *, as_json: Json = False, settings: Where = DEFAULTS
) -> ExitCode:
    """Show one user: labels, version, time of the save and kept versions; not the password."""
    with client(settings) as book:
        versions = book.password_history(username)
        about = asdict(_user(book, username))
    if as_json or not output.on_terminal():
        output.record(about | {"versions_kept": [*map(asdict, versions)]}, as_json=True)
    else:
        numbers = [each.version for each in versions]
        output.record(about | {"versions_kept": numbers}, as_json=False)
    return ExitCode.OK


def label(
    username: _Name,
    /,
    *labels: Annotated[str, Parameter(help="The labels. None: show the user's labels.")],
    clear: bool = False,
    as_json: Json = False,
    settings: Where = DEFAULTS,
) -> ExitCode:
    """Replace a user's labels, or show them.

    Parameters
    ----------
    clear
        Remove all labels.
    """
    if clear and labels:
        raise ConfigError("with --clear there can be no labels.")
    with client(settings) as book:
        if labels or clear:
            now, done = book.label_user(username, labels), "User labelled! "
        else:
            now, done = _user(book, username).labels, ""
    output.done(
        f"{done}Labels of {username}: {', '.join(now) or 'none'}.",
        {"username": username, "labels": now},
        as_json=as_json,
    )
    return ExitCode.OK


def delete(
    username: _Name,
    /,
    *,
    yes: Yes = False,
    as_json: Json = False,
    settings: Where = DEFAULTS,
) -> ExitCode:
    """Delete a user with all versions of its password."""
    if not yes:
        prompts.confirm(f"Delete {username!r} with all versions of its password?")
    with client(settings) as book:
        book.delete_user(username)
    output.done("User deleted!", {"username": username, "deleted": True}, as_json=as_json)
    return ExitCode.OK


def generate(
    *,
    length: int | None = None,
    alphabet: str | None = None,
    username: str | None = None,
    labels: _Labels = None,
    if_version: _IfVersion = None,
    shown: _Show = False,
    raw: _Raw = False,
    as_json: Json = False,
    settings: Where = DEFAULTS,
) -> ExitCode:
    """Generate a random password, and save it if a username is given.

    Parameters
    ----------
    length
        The number of its characters. Not given: 20.
    alphabet
        The characters to choose from. Not given: letters and digits.
    username
        The user whose password it becomes. Not given: it is not saved.
    """
    _check_raw(raw, shown)
    if username is None and output.on_terminal() and not shown:
        raise ConfigError("the password would be lost: add --show, or --username to save it.")
    with client(settings) as book:
        made = book.generate_password(
            length=length,
            alphabet=alphabet,
            username=username,
            labels=labels,
            if_version=if_version,
        )
    about = {} if username is None else {"username": made.username, "version": made.version}
    _print_password(made.password, about, shown=shown, raw=raw, as_json=as_json)
    return ExitCode.OK


def client(settings: ClientSettings) -> Client:
    """Return a client for the service that the settings name."""
    names = ("token_file", "ca_file", "client_cert", "client_key")  # empty where not set
    options: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return Client(
        settings.service_url,
        token_in_clear=settings.token_in_clear,
        timeout_s=settings.timeout_s,
        **options,
    )


def _user(book: Client, username: str) -> User:
    """Return a user as it is listed; raise `UnknownUser`.

    Of the names that begin with a name, that name itself is listed first.
    """
    for user in book.list_users(prefix=username, limit=1).users:
        if user.username == unicodedata.normalize("NFC", username):
            return user
    raise UnknownUser(f"There is no user {username!r}.")


def _print_saved(words: str, saved: Saved, as_json: bool) -> None:
    output.done(
        f"{words} {saved.username} is at version {saved.version}.",
        {"username": saved.username, "version": saved.version},
        as_json=as_json,
    )


def _print_password(
    password: str, about: dict[str, Any], *, shown: bool, raw: bool, as_json: bool
) -> None:
    """Print a record with a password; a terminal hides the password unless `shown`."""
    if raw:
        output.text(password)
    elif shown or not output.on_terminal():
        output.record(about | {"password": password}, as_json=as_json)
    else:
        output.record(about if as_json else about | {"password": output.HIDDEN}, as_json=as_json)


def _check_raw(raw: bool, shown: bool) -> None:
    if raw and output.on_terminal() and not shown:
        raise ConfigError("a terminal does not show passwords: add --show.")


COMMANDS: tuple[Callable[..., ExitCode], ...] = (
    save,
    get,
    verify,
    list_,
    show_,
    history,
    label,
    delete,
    generate,
)
"""In the order in which `pwserver --help` lists them."""
