"""The command line. Each function is a command: it takes settings, and does its work elsewhere.

Settings come from flags, `PWSERVER_...` variables and a TOML file, in this order, all made by
cyclopts from the one definition in `pwserver.config`. What people look at goes to standard output;
errors are one plain sentence on standard error, and the exit code says what kind.
"""

import getpass
import json
import os
import socket
import sys
import tomllib
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env, Toml

from pwserver import __version__
from pwserver.client import Client
from pwserver.config import ClientSettings, Settings, StoreSettings
from pwserver.errors import ConfigError, ConnectionFailed, ExitCode, PwserverError

CONFIG_FILE = "pwserver.toml"
_INTERRUPTED = 130  # what shells report of a command that SIGINT ended

_ENVIRONMENT = Env("PWSERVER_", command=False)

app = App(
    name="pwserver",
    help="A password book that many applications share.",
    version=__version__,
    help_format="plaintext",
    config=_ENVIRONMENT,
)
_Flat = Parameter(name="*")


@app.command
def serve(settings: Annotated[Settings, _Flat] = Settings()) -> ExitCode:
    """Run the service; on the first run, set it up before."""
    from pwserver import server  # noqa: PLC0415 - no other command needs the database

    return server.serve(settings)


@app.command
def setup(settings: Annotated[StoreSettings, _Flat] = StoreSettings()) -> ExitCode:
    """Make the key file and the database, or check those that are there."""
    from pwserver import server  # noqa: PLC0415

    _, made = server.prepare(settings)
    for sentence in made or ["The key file and the database are in order; nothing was changed."]:
        print(sentence)
    return ExitCode.OK


@app.command
def save(settings: Annotated[ClientSettings, _Flat] = ClientSettings()) -> ExitCode:
    """Save a password, typed at a hidden prompt or read from standard input."""
    with _client(settings) as book:
        book.save_password(_read_password())
    print("Password saved!")
    return ExitCode.OK


@app.command
def count(settings: Annotated[ClientSettings, _Flat] = ClientSettings()) -> ExitCode:
    """Print how many users there are."""
    with _client(settings) as book:
        number = book.number_of_users()
    if sys.stdout.isatty():
        print(f"{number:,} user{'' if number == 1 else 's'}")
    else:
        print(number)
    return ExitCode.OK


@app.command
def ping(settings: Annotated[ClientSettings, _Flat] = ClientSettings()) -> ExitCode:
    """Tell whether the service is alive."""
    with _client(settings) as book:
        book.ping()
    print("Alive!")
    return ExitCode.OK


@app.command
def demo(settings: Annotated[ClientSettings, _Flat] = ClientSettings()) -> ExitCode:
    """Show what a main application says to the service, and what it answers.

    Saves one password, "abc123", as an example does. The messages are sent as plain sockets and
    `json.dumps` make them, to show that nothing else is needed.
    """
    messages = [
        {"message": "number_of_users"},
        {"message": "save_password", "password": "abc123"},
        {"message": "another_message", "data": "some_data"},
    ]
    try:
        with socket.create_connection((settings.host, settings.port), settings.timeout_s) as book:
            replies = book.makefile("rb")
            for message in messages:
                print("sent:    ", json.dumps(message))
                book.sendall(json.dumps(message).encode())
                print("received:", json.dumps(json.loads(replies.readline())))
    except (OSError, ValueError) as error:
        raise ConnectionFailed(
            f"{settings.host}:{settings.port} did not answer: {error}."
        ) from None
    return ExitCode.OK


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return app.meta(arguments, exit_on_error=False, print_error=False) or ExitCode.OK
    except CycloptsError as error:
        return _failed(ExitCode.USAGE, str(error))
    except PwserverError as error:
        return _failed(error.exit_code, str(error))
    except BrokenPipeError:  # nobody reads standard output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None,
        Parameter(
            env_var="PWSERVER_CONFIG",
            help=f"A TOML file with settings. Not set: {CONFIG_FILE}, if there is one here.",
        ),
    ] = None,
) -> int:
    if config is not None and not config.is_file():
        raise ConfigError(f"there is no settings file {config}.")
    path = config or Path(CONFIG_FILE)
    if path.is_file():
        try:
            tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is not a TOML file: {error}.") from None
    is_serve = tokens[:1] == ("serve",)
    app.config = (
        _ENVIRONMENT,
        # Only `serve` knows every setting, so only it can tell that a key is misspelt.
        Toml(path, use_commands_as_keys=False, allow_unknown=not is_serve),
    )
    return app(tokens, exit_on_error=False, print_error=False) or ExitCode.OK


def _client(settings: ClientSettings) -> Client:
    return Client(settings.host, settings.port, settings.timeout_s)


def _read_password() -> str:
    """Return the password from a prompt that does not show it, or from standard input."""
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
    else:
        try:
            password = sys.stdin.readline().removesuffix("\n")
        except UnicodeDecodeError:
            raise ConfigError("the password on standard input is not valid UTF-8.") from None
    if not password:
        raise ConfigError("no password was given.")
    return password


def _failed(code: ExitCode, sentence: str) -> int:
    print(f"pwserver: {sentence[:1].lower()}{sentence[1:]}", file=sys.stderr)
    return code
