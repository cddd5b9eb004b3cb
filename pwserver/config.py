"""Every setting and every limit, once.

A field of `Settings` is the one definition from which the flag, the `PWSERVER_...` environment
variable, the TOML key, the help text and the README's table are made. The limits below it are not
settings: nobody needs to turn them, but each is named here with its reason, so that nothing in the
service grows without bound.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwserver.errors import ConfigError

# --- Limits that are not settings. ---

RECEIVE_BYTES = 64 * 1024
"""Taken from a socket by one call: a pipelining client's burst, yet small beside other memory."""

REPLIES_BYTES_MAX = 1024 * 1024
"""Replies kept for a client that does not read them; past it nothing more is read from it."""

BATCH_BYTES_MAX = 512 * 1024
"""Rows sent to the writer as one batch: about 4,000 short passwords, 5 ms of the writer's time."""

BATCHES_IN_FLIGHT_MAX = 2
"""Batches a worker may have at the writer: one being committed, one waiting for it. More add
latency and nothing else."""

QUEUE_BYTES_MAX = 16 * 1024 * 1024
"""Rows a worker keeps for a writer that is slow or away; past it saves are "Not saved!"."""

CHECKPOINT_PAGES = 2000
"""Pages (of 2 KiB) in the write-ahead log before they are copied to the database: 4 MB, as is
SQLite's own default. A copy takes a few milliseconds, and the log is then overwritten in place,
which syncs 1.8 times as fast as a file that grows."""

HANDOVERS_MAX = 64
"""Connections accepted in one turn of the listener, so that its other duties are never starved."""

BACKLOG = 4096
"""Connections the kernel keeps while they wait to be accepted (bounded by net.core.somaxconn)."""

RESYNC_S = 1.0
"""How long to wait for the newline behind text that is not JSON before the connection is closed."""

LINGER_S = 1.0
"""How long a connection that is being closed is still read, so that the client gets the last reply
(closing with unread bytes would make the kernel throw it away)."""

TICK_S = 0.25
"""How often every process looks at its deadlines, and the writer at whether its files are there."""

RESTART_PAUSE_S_MAX = 0.5
"""The longest pause before a child that keeps dying is started again."""

LISTING_PAGE = 1000
"""Users the console reads and prints at a time: its memory does not depend on the book."""


PAGE_ROWS_MAX = 2000
"""Rows looked at for one page of `list_users`: about 2 ms, in which a worker does nothing else."""

PAGE_BYTES_MAX = 256 * 1024
"""About how long the reply to one `list_users` may become, whatever its `limit`."""

CHECK_LENGTH_MAX = 64
"""Characters of a password that `check_password` looks at: the time it takes grows steeply, and
what is strong so far does not get weaker."""

CHECKS_MAX = 64
"""Passwords of one worker that wait to be checked; past it more are "Unavailable!"."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the service is reached."""

    host: str = field(
        default="127.0.0.1", metadata={"help": "The address that the service listens on."}
    )
    port: int = field(
        default=12345,
        metadata={"help": "Its TCP port; for `serve`, 0 picks a free one and prints it."},
    )

    def __post_init__(self) -> None:
        """Check the values."""
        _between("port", self.port, 0, 65535)
        if not self.host:
            raise ConfigError("host is empty; give an address such as 127.0.0.1.")


@dataclass(frozen=True, kw_only=True)
class ClientSettings(Address):
    """The settings of the commands that talk to a running service."""

    url: str = field(
        default="",
        metadata={
            "help": "Where the service is, such as pwserver://127.0.0.1:12345. Not set: made of "
            "host and port."
        },
    )
    timeout_s: float = field(
        default=10.0, metadata={"help": "How long to wait for the service, in seconds."}
    )

    def __post_init__(self) -> None:
        """Check the values; the URL is read, and refused if need be, by `pwserver.url`."""
        super().__post_init__()
        _between("timeout_s", self.timeout_s, 0.01, 86_400)

    @property
    def service_url(self) -> str:
        """The URL, made of host and port where it is not set."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.url or f"pwserver://{host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where the passwords and the key are."""

    database: str = field(
        default="user_data.db",
        metadata={"help": "The database: a file name, or `sqlite:///` and a path."},
    )
    key_file: str = field(
        default="",
        metadata={"help": "The key file. Not set: beside the database, its name ending in `.key`."},
    )

    def __post_init__(self) -> None:
        """Check the values."""
        if "\0" in self.key_file:
            raise ConfigError("key_file holds a NUL character; give a file name.")
        if self.path.suffix == ".key":
            raise ConfigError("database ends in .key, the name of key files; choose another name.")

    @property
    def path(self) -> Path:
        """The database file."""
        return _database_path(self.database)

    @property
    def key_path(self) -> Path:
        """The key file, beside the database where it is not set."""
        return Path(self.key_file) if self.key_file else self.path.with_suffix(".key")


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings, Address):
    """The settings of the service. Raises `ConfigError` for values that cannot be used."""

    workers: int = field(
        default=2,
        metadata={
            "help": "Worker processes. Two keep the one writer busy on two cores; more help "
            "where there are more cores."
        },
    )
    list_users: str = field(
        default="all",
        metadata={
            "help": "What `number_of_users` prints on the console: `all`, `none`, or a number N "
            "for the newest N."
        },
    )
    message_bytes_max: int = field(
        default=65536, metadata={"help": "The longest message that is accepted, in bytes."}
    )
    connections_max: int = field(
        default=16384,
        metadata={
            "help": "Connections served at once; more wait to be accepted. The limit of open "
            "files lowers it where it must."
        },
    )
    in_flight_max: int = field(
        default=1024,
        metadata={
            "help": "Requests of one connection that may await their reply before no more are read."
        },
    )
    message_timeout_s: float = field(
        default=30.0,
        metadata={"help": "How long the rest of a message that has begun may take, in seconds."},
    )
    send_timeout_s: float = field(
        default=30.0,
        metadata={"help": "How long a client may leave its replies unread, in seconds."},
    )
    save_timeout_s: float = field(
        default=5.0,
        metadata={
            "help": "How long a save may wait for its turn to be written before it is answered "
            "`Not saved!`, and a check before it is given up, in seconds."
        },
    )
    versions_kept: int = field(
        default=10,
        metadata={"help": "Older versions that are kept of each user's password."},
    )
    requests_kept_s: float = field(
        default=86_400.0,
        metadata={
            "help": "How long a `request_id` is remembered, in seconds: so long a save that is "
            "sent again saves nothing."
        },
    )
    stop_timeout_s: float = field(
        default=10.0,
        metadata={"help": "How long a stop may take before what is left is killed, in seconds."},
    )
    hang_timeout_s: float = field(
        default=10.0,
        metadata={"help": "How long a child may show no sign of life before it is replaced."},
    )

    def __post_init__(self) -> None:
        """Check every value, so that a wrong one is one plain sentence at the start."""
        StoreSettings.__post_init__(self)
        Address.__post_init__(self)
        _between("workers", self.workers, 1, 64)
        _between("message_bytes_max", self.message_bytes_max, 256, 16 * 1024 * 1024)
        _between("connections_max", self.connections_max, 1, 1_000_000)
        _between("in_flight_max", self.in_flight_max, 1, 1_000_000)
        _between("versions_kept", self.versions_kept, 0, 1_000_000)
        _between("requests_kept_s", self.requests_kept_s, 1, 366 * 86_400)
        for name in ("message", "send", "save", "stop", "hang"):
            _between(f"{name}_timeout_s", getattr(self, f"{name}_timeout_s"), 0.5, 86_400)
        if self.list_users not in ("all", "none") and not (
            self.list_users.isdecimal() and len(self.list_users) <= 18
        ):
            raise ConfigError(
                f"list_users is {self.list_users!r}; it must be all, none or a number."
            )


def _database_path(database: str) -> Path:
    """Return the file that a `database` setting names, or raise `ConfigError`."""
    scheme, separator, rest = database.partition("://")
    if separator and scheme.lower() != "sqlite":
        raise ConfigError(f"database has the scheme {scheme!r}; only sqlite is supported.")
    if separator and not rest.startswith("/"):
        raise ConfigError("database names a host; write sqlite:/// and a path.")
    path = Path(rest[1:] if separator else database)
    if not path.name or "\0" in database:
        raise ConfigError("database is empty; give a file name such as user_data.db.")
    return path


def environment_variable(setting: str) -> str:
    """Return the name of the environment variable of a setting."""
    return f"PWSERVER_{setting.upper()}"


def settings_table() -> str:
    """Return the README's table of settings, in Markdown."""
    rows = [
        "| flag | environment | TOML key | default | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for setting in dataclasses.fields(Settings):
        flag = "--" + setting.name.replace("_", "-")
        default = f"`{setting.default}`" if setting.default != "" else ""
        rows.append(
            f"| `{flag}` | `{environment_variable(setting.name)}` | `{setting.name}` "
            f"| {default} | {setting.metadata['help']} |"
        )
    return "\n".join(rows)


def _between(name: str, value: Any, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must be from {low} to {high}.")
