"""The command line: it reads a command and runs it. It also has the commands that run the service.

Each command is a function that takes settings and calls another module for its work. The commands
that talk to a running service are in `book` and `service`, the administrator's in `admin` and
`audit`; `moving` has those that do either. Settings come from flags, `PWSERVER_...` variables and a
TOML file, in this order; cyclopts makes all three from the one definition in `pwserver.config`.
What only one command needs, such as a name or `--yes`, can be given on the command line only.
Results go to standard output. An error is one plain sentence on standard error, and the exit code
says of which kind it is.
"""

import contextlib
import dataclasses
import os
import sys
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import setproctitle
from cyclopts import (
    App,
    ArgumentCollection,
    CycloptsError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.config import Dict, Env

from pwserver import __version__, trust
from pwserver.cli import (
    admin,
    audit,
    backup,
    book,
    environment,
    installing,
    move,
    moving,
    output,
    service,
    watch,
)
from pwserver.cli import settings as effective
from pwserver.cli.book import FLAT, STORE_DEFAULTS, Json, Store
from pwserver.client.access import TOKEN_FILE_VARIABLE
from pwserver.config import ClientSettings, Settings, environment_variable
from pwserver.errors import ConfigError, ExitCode, PwserverError, Refused
from pwserver.protection import protect_memory
from pwserver.tokens import TOKEN

CONFIG_FILE = "pwserver.toml"
_CONFIG_BYTES_MAX = 1024 * 1024
_INTERRUPTED = 130  # the exit code that shells report for a command ended by SIGINT
_TRACEBACK = "PWSERVER_TRACEBACK"  # if set, an unforeseen error is shown with its traceback
_SETTINGS = {
    field.name for kind in (Settings, ClientSettings) for field in dataclasses.fields(kind)
}


def _settings(arguments: ArgumentCollection) -> ArgumentCollection:
    """Return the arguments that are settings: only for these the help names a variable."""
    settings = arguments.copy()
    settings[:] = [each for each in arguments if each.parameter.show_env_var]
    return settings


class _Environment(Env):
    """The `PWSERVER_...` variables."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        super().__call__(app, commands, _settings(arguments))


class _File(Dict):
    """The TOML file, which is read last."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        super().__call__(app, commands, _settings(arguments))
        effective.note_sources(_settings(arguments))


_ENVIRONMENT = _Environment("PWSERVER_", command=False)

app = App(
    name="pwserver",
    help="A password book that many applications share.",
    version_flags=(),  # see `version`: `--version` is accepted only before a command
    help_format="markdown",
    config=_ENVIRONMENT,
    result_action="return_value",
    default_parameter=Parameter(show_default=False, show_env_var=False, negative=()),
)


def serve(
    *,
    take_over: Annotated[
        bool,
        Parameter(help="Go on for the service that runs on this book; no client notices it."),
    ] = False,
    settings: Annotated[Settings, FLAT] = Settings(),
) -> ExitCode:
    """Run the service; the first run makes the key file and the database."""
    from pwserver.server import supervisor  # noqa: PLC0415 - no other command needs the database

    settings.check_files()  # before any is made: taking the lock empties the lock file
    return supervisor.serve(settings, _settings_again, takes_over=take_over)


def setup(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Make the key file and the database without running the service, or check existing ones.

    `serve` does the same when it starts, so this is seldom needed. Use it to have the key file
    before the first start, for a backup or for another user; or to check that a backup fits its key
    before the service runs.
    """
    from workers.admin.setup import owners_rights, prepare  # noqa: PLC0415

    protect_memory()
    with owners_rights(settings):
        _, made = prepare(settings)
    output.plain(
        made or ["The key file and the database are in order; nothing was changed."],
        {"database": settings.book_name, "key_file": str(settings.key_path), "done": made},
        as_json=as_json,
    )
    return ExitCode.OK


def stop(
    *,
    timeout_s: float = 30.0,
    as_json: Json = False,
    settings: Store = STORE_DEFAULTS,
) -> ExitCode:
    """Stop the service that runs on the database, and wait until it has ended.

    It first answers everything that it has received, as after Ctrl-C.

    Parameters
    ----------
    timeout_s
        How long to wait until it has ended, in seconds.
    """
    from pwserver.server import instance  # noqa: PLC0415 - as above

    process = instance.stop(settings.path, timeout_s)
    output.done(f"Process {process} has stopped.", {"process": process}, as_json=as_json)
    return ExitCode.OK


@app.command(name="--version")
def version() -> ExitCode:
    """Print the version of pwserver."""
    print(__version__)
    return ExitCode.OK


_COMMANDS: tuple[Callable[..., ExitCode], ...] = (
    serve,
    stop,
    setup,
    *book.COMMANDS,
    *service.COMMANDS,
    *moving.COMMANDS,
    *watch.COMMANDS,
    admin.check,
    effective.config,
    installing.systemd_unit,
    installing.completion,
    *backup.COMMANDS,
    *move.COMMANDS,
)
for place, command in enumerate(_COMMANDS):
    app.command(command, sort_key=place)
for commands in (*admin.APPS, audit.audit):
    app.command(commands)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; report any error in one sentence."""
    environment.prepare()
    try:
        _cover_token(sys.argv if arguments is None else arguments)
        code = app.meta(arguments, exit_on_error=False, print_error=False) or ExitCode.OK
        sys.stdout.flush()
        return code
    except (CycloptsError, PwserverError) as error:
        sentence = TOKEN.sub("(a token)", _sentence(error))
        code = error.exit_code if isinstance(error, PwserverError) else ExitCode.USAGE
        environment.flush_or_drop_output()  # what was printed goes before the error
        return _say(sentence, code)
    except KeyboardInterrupt:
        return _say("", _INTERRUPTED)  # the terminal has printed "^C" on the line
    except Exception as error:  # the only place that handles unforeseen errors
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    """Report an unforeseen error, or that standard output cannot be written to."""
    output_fails = environment.flush_or_drop_output()
    if isinstance(error, BrokenPipeError):  # the reader has ended, as `head` does: no message
        return ExitCode.FAILED
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    if output_fails and isinstance(error, OSError):
        sentence = f"standard output cannot be written to: {error.strerror}."
    elif isinstance(error, OSError):
        named = f" with {error.filename}" if error.filename else ""
        sentence = f"this cannot be done{named}: {error.strerror or error}."
    else:
        sentence = (
            f"something unforeseen went wrong ({type(error).__name__}). Please report it, with "
            f"what is shown when {_TRACEBACK}=1 is set."
        )
    return _say(TOKEN.sub("(a token)", sentence), ExitCode.FAILED)


def _say(sentence: str, code: int) -> int:
    """Print a sentence on standard error, if it is open, and return the exit code."""
    with contextlib.suppress(OSError, ValueError):
        output.tell(f"pwserver: {sentence}" if sentence else "")
        sys.stderr.flush()
    return code


def _cover_token(arguments: list[str]) -> None:
    """Hide the arguments from the process list if one of them holds a token."""
    if any(TOKEN.search(argument) for argument in arguments):
        setproctitle.setproctitle("pwserver")
        print(
            "pwserver: others could see the token in the arguments; keep it in a file, which "
            f"{TOKEN_FILE_VARIABLE} names.",
            file=sys.stderr,
        )


app.suppress_keyboard_interrupt = app.meta.suppress_keyboard_interrupt = False  # see `run`


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None,
        Parameter(
            show_env_var=True,
            help=f"A TOML file with settings. Not set: {CONFIG_FILE}, if there is one here.",
        ),
    ] = None,
) -> int:
    environment.check_variables(map(environment_variable, _SETTINGS))
    _given[:] = [tokens, config]
    _use_file(config)
    return app(tokens, exit_on_error=False, print_error=False) or ExitCode.OK


_given: list[Any] = []  # the arguments of this command, and what `--config` names


def _settings_again() -> Settings:
    """Return the settings of `serve` as they are now. Raises `ConfigError`."""
    tokens, config = _given
    try:
        _use_file(config)
        arguments = app.parse_args(tokens, exit_on_error=False, print_error=False)[1].arguments
        settings: Settings = arguments.get("settings", Settings())
        settings.check_files()
    except CycloptsError as error:
        raise ConfigError(_sentence(error)) from None
    return settings


def _use_file(config: Path | None) -> None:
    """Read the settings file for the commands."""
    path = config or Path(CONFIG_FILE)
    is_there = config is not None or os.path.lexists(path)
    app.config = (
        _ENVIRONMENT,
        _File(
            data=_read(path) if is_there else {},
            source=str(path),
            use_commands_as_keys=False,
            allow_unknown=True,  # no command knows every setting
        ),
    )


def _read(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file. They decide whom to trust, so its owner is checked."""
    missing = f"there is no settings file {path}."
    text = trust.read(path, "", ConfigError, bytes_max=_CONFIG_BYTES_MAX, missing=missing)
    try:
        settings = tomllib.loads(text.decode("utf-8-sig"))  # some editors write a byte order mark
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from None
    for key, value in settings.items():
        if key not in _SETTINGS:
            near = environment.nearest(key, _SETTINGS)
            raise ConfigError(f"{path} has {key!r}, which is not a setting; {near}")
        if isinstance(value, dict):
            raise ConfigError(f"{path} has a section {key!r}, which is not a setting.")
    return settings


def _sentence(error: CycloptsError | PwserverError) -> str:
    """Return the sentence for a person; for a refusal, the message of the reply and the reason."""
    sentence = str(error)
    if isinstance(error, Refused):
        return error.message if error.message in sentence else f"{error.message} {sentence}"
    if isinstance(
        error, UnusedCliTokensError
    ):  # its text repeats the arguments: one may be a password
        return "there are more arguments than it takes; a password is never one."
    if isinstance(error, UnknownOptionError) and "--version" in sentence:
        return "--version is no flag of this command; `pwserver --version` prints the program's."
    return f"{sentence[:1].lower()}{sentence[1:]}"
