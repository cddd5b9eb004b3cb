"""Every setting, once. The limits that nobody needs to turn are in `limits`.

A field of `Settings` is the one definition from which the flag, the `PWSERVER_...` environment
variable, the TOML key, the help text and the table in docs/operations.md are made.
"""

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwserver.errors import ConfigError

NO_HOST = "none"
"""The `host` of a service without a TCP address."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the service is reached."""

    host: str = field(
        default="127.0.0.1",
        metadata={
            "help": "The address that the service listens on; `none` for none but that of `unix`."
        },
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
            "help": "Where the service is: pwserver://HOST:PORT, pwservers:// for TLS, or "
            "pwserver+unix:///PATH. Not set: made of host and port."
        },
    )
    token_file: str = field(
        default="",
        metadata={"help": "A file with the application's token; only its owner may read it."},
    )
    ca_file: str = field(
        default="",
        metadata={
            "help": "The certificates (PEM) to trust in the service's. Not set: the system's."
        },
    )
    client_cert: str = field(
        default="",
        metadata={"help": "A client certificate (PEM) that stands for an application."},
    )
    client_key: str = field(default="", metadata={"help": "The key (PEM) of `client_cert`."})
    timeout_s: float = field(
        default=10.0, metadata={"help": "How long to wait for the service, in seconds."}
    )

    def __post_init__(self) -> None:
        """Check the values; the URL is read, and refused if need be, by `pwserver.client.url`."""
        super().__post_init__()
        _between("timeout_s", self.timeout_s, 0.01, 86_400)

    @property
    def service_url(self) -> str:
        """The URL, made of host and port where it is not set."""
        return self.url or f"pwserver://{host_in_url(self.host)}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where the passwords and the key are."""

    database: str = field(
        default="user_data.db",
        metadata={"help": "The database: a file name, or `sqlite:///` and a path."},
    )
    key_file: str = field(
        default="",
        metadata={
            "help": "The key file. Not set: the systemd credential `pwserver.key`, if there is "
            "one, or beside the database, its name ending in `.key`."
        },
    )
    key_passphrase: str = field(
        default="",
        metadata={
            "help": "Where the passphrase of a sealed key file comes from: a file that only its "
            "owner may read, or `fd:N`, an open file descriptor. Not set: the systemd credential "
            "`pwserver.passphrase`, or it is asked for."
        },
    )
    audit_file: str = field(
        default="",
        metadata={
            "help": "The audit record. Not set: beside the database, its name ending in `.audit`."
        },
    )

    def __post_init__(self) -> None:
        """Check the values."""
        for setting in dataclasses.fields(self):
            if "\0" in str(getattr(self, setting.name)):
                raise ConfigError(f"{setting.name} holds a NUL character; leave it out.")
        if re.match("fd:(?![0-9]{1,9}$)", self.key_passphrase):
            raise ConfigError(f"key_passphrase is {self.key_passphrase!r}; fd: needs a number.")
        if self.path.suffix in (".key", ".audit", ".audit-head", ".lock", ".revisions"):
            raise ConfigError("database ends as a file beside it does; choose another name.")
        self._check_that_files_differ(str(self.path), os.path.normpath)

    def check_files(self) -> None:
        """Raise `ConfigError` where two settings lead to one file, by whatever links.

        Looks at the files, which making the settings does not: the defaults are made anywhere.
        """
        self._check_that_files_differ(_resolved(self.path), _file_at)

    def _check_that_files_differ(self, database: str, place: Callable[[str], object]) -> None:
        """Raise `ConfigError` where what is written to one file would damage another."""
        taken = {place(database): "the database"}
        taken |= {place(each): "a part of the database" for each in files_beside(database)}
        taken[place(str(Path(database).with_suffix(".lock")))] = "the lock of the service"
        taken[place(str(self.audit_head_path))] = "the end of the audit record"
        taken[place(str(self.revisions_path))] = "the revisions of the applications"
        for name, path in self._files().items():
            if not path:
                continue
            what = taken.get(place(path), name)
            if what != name:
                raise ConfigError(f"{name} is {path}, which has {what} in it; choose another file.")
            if not name.startswith("tls_"):  # those may be one file
                taken[place(path)] = name

    def _files(self) -> dict[str, str]:
        """Return the files that settings name, besides the database."""
        return {"key_file": str(self.key_path), "audit_file": str(self.audit_path)}

    @property
    def path(self) -> Path:
        """The database file."""
        return _database_path(self.database)

    @property
    def key_path(self) -> Path:
        """The key file: as set, or a credential, or beside the database."""
        if self.key_file:
            return Path(self.key_file)
        credential = _credential("pwserver.key")
        return credential or self.path.with_suffix(".key")

    @property
    def passphrase_source(self) -> str:
        """Where the passphrase of the key file comes from; empty: from the terminal."""
        return self.key_passphrase or str(_credential("pwserver.passphrase") or "")

    @property
    def audit_path(self) -> Path:
        """The audit record, beside the database where it is not set."""
        return Path(self.audit_file) if self.audit_file else self.path.with_suffix(".audit")

    @property
    def audit_head_path(self) -> Path:
        """What the end of the audit record must be, beside the database wherever that is."""
        return self.path.with_suffix(".audit-head")

    @property
    def revisions_path(self) -> Path:
        """The newest revision of each application, beside the database."""
        return self.path.with_suffix(".revisions")


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings, Address):
    """The settings of the service. Raises `ConfigError` for values that cannot be used."""

    unix: str = field(
        default="", metadata={"help": "A Unix socket to listen on as well. Not set: none."}
    )
    unix_mode: str = field(
        default="600", metadata={"help": "Its permissions: who may connect, as chmod has it."}
    )
    tls_cert: str = field(
        default="",
        metadata={"help": "The service's certificate and those above it (PEM): TCP is TLS then."},
    )
    tls_key: str = field(default="", metadata={"help": "The key of the certificate (PEM)."})
    tls_client_ca: str = field(
        default="",
        metadata={
            "help": "Certificates (PEM) that client certificates must come from. One whose common "
            "name is an application's stands for that application."
        },
    )
    insecure: bool = field(
        default=False,
        metadata={
            "help": "Let others than this machine in without encryption and without tokens, each "
            "as if it were here."
        },
    )
    require_locked_memory: bool = field(
        default=False,
        metadata={
            "help": "Refuse to start where memory cannot be locked, so that no key or password "
            "reaches the swap. Not set: it is locked where the limit (`ulimit -l`) allows it."
        },
    )
    workers: int = field(
        default=2,
        metadata={
            "help": "Worker processes. The first writes for all, and serves clients itself; the "
            "others answer while the disk is slow or the first is busy, so more help where there "
            "are more cores."
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
    handshake_timeout_s: float = field(
        default=10.0, metadata={"help": "How long a TLS handshake may take, in seconds."}
    )
    message_timeout_s: float = field(
        default=30.0,
        metadata={"help": "How long the rest of a message that has begun may take, in seconds."},
    )
    send_timeout_s: float = field(
        default=30.0,
        metadata={"help": "How long a client may leave its replies unread, in seconds."},
    )
    idle_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "How long a client may say nothing while others wait because `connections_max` "
            "is reached, in seconds. As long as there is room, it may for ever."
        },
    )
    peer_timeout_s: float = field(
        default=120.0,
        metadata={
            "help": "How long a client's machine may be silent, not answering at all, before the "
            "connection is given up, in seconds."
        },
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
        _between("peer_timeout_s", self.peer_timeout_s, 1, 43_200)
        for name in ("handshake", "message", "send", "idle", "save", "stop", "hang"):
            _between(f"{name}_timeout_s", getattr(self, f"{name}_timeout_s"), 0.5, 86_400)
        if self.list_users not in ("all", "none") and not (
            self.list_users.isdecimal() and len(self.list_users) <= 18
        ):
            raise ConfigError(
                f"list_users is {self.list_users!r}; it must be all, none or a number."
            )
        self._check_ways_in()

    def _files(self) -> dict[str, str]:
        names = ("unix", "tls_cert", "tls_key", "tls_client_ca")
        return super()._files() | {name: str(getattr(self, name)) for name in names}

    def _check_ways_in(self) -> None:
        if self.host == NO_HOST and not self.unix:
            raise ConfigError("host is none and unix is not set: there would be no way in.")
        if not re.fullmatch("0?[0-7]{3}", self.unix_mode):
            raise ConfigError(f"unix_mode is {self.unix_mode!r}; it must be such as 600 or 660.")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("tls_cert and tls_key belong together; one of them is not set.")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("tls_client_ca is set, and tls_cert is not: there is no TLS.")
        if self.tls_cert and self.host == NO_HOST:
            raise ConfigError("tls_cert is set, and host is none: TLS is for TCP alone.")


def files_beside(database: str) -> list[str]:
    """Return the files that SQLite has beside a database."""
    return [f"{database}{suffix}" for suffix in ("-wal", "-shm", "-journal")]


def _file_at(path: str) -> object:
    """Return what tells a file from others: its inode, or where it would be made."""
    try:
        found = os.stat(path)
    except OSError:
        return _resolved(path)
    return found.st_dev, found.st_ino


def _resolved(path: str | os.PathLike[str]) -> str:
    try:
        return os.path.realpath(path)
    except OSError:  # the current folder was removed
        return os.path.normpath(path)


def host_in_url(host: str) -> str:
    """Return a host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_credential(path: str | os.PathLike[str]) -> bool:
    """Tell whether systemd made the file: it guards the folder, and uses access control lists."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and Path(path).parent == Path(folder or "")


def _credential(name: str) -> Path | None:
    """Return a credential that systemd gave the service, if there is such a one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder or "", name)
    return path if folder and os.path.exists(path) else None


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
    """Return the table of settings of docs/operations.md, in Markdown."""
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
