"""Every setting, defined once. `limits` has the limits that nobody needs to change.

The flag, the `PWSERVER_...` environment variable, the TOML key, the help text and the table in
docs/operations.md are all made from a field of `Settings`.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from pwserver.errors import ConfigError
from pwserver.logs import FORMATS, LEVELS, Style
from pwserver.memory import file_of
from pwserver.networks import NETWORKS_MAX, UNIX, stored

DEFAULT_FILE = "user_data.db"
"""The database that is not set. With a database on a server, the other files have its name."""

_SERVERS = ("postgresql", "postgres")
"""The schemes of a database on a server."""

NO_HOST = "none"
"""The `host` of a service that does not listen on TCP."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the service is reached."""

    host: str = field(
        default="127.0.0.1",
        metadata={
            "help": "The address that the service listens on; `none`: only the socket `unix`."
        },
    )
    port: int = field(
        default=12345,
        metadata={"help": "The TCP port; with 0, `serve` chooses a free one and prints it."},
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
            "pwserver+unix:///PATH. Not set: made from host and port."
        },
    )
    token_file: str = field(
        default="",
        metadata={"help": "A file with the application's token; only its owner may read it."},
    )
    ca_file: str = field(
        default="",
        metadata={"help": "The authorities' certificates (PEM) to trust. Not set: the system's."},
    )
    client_cert: str = field(
        default="",
        metadata={"help": "A client certificate (PEM) that stands for an application."},
    )
    client_key: str = field(default="", metadata={"help": "The key (PEM) of `client_cert`."})
    token_in_clear: bool = field(
        default=False,
        metadata={"help": "Send the token to another machine even without TLS."},
    )
    timeout_s: float = field(
        default=10.0, metadata={"help": "The longest wait for the service, in seconds."}
    )

    def __post_init__(self) -> None:
        """Check the values; `pwserver.client.url` checks the URL."""
        super().__post_init__()
        _between("timeout_s", self.timeout_s, 0.01, 86_400)

    @property
    def service_url(self) -> str:
        """The URL; if it is not set, made from host and port."""
        return self.url or f"pwserver://{host_in_url(self.host)}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where the passwords and the key are."""

    database: str = field(
        default=DEFAULT_FILE,
        metadata={
            "help": "The database: a file name, or `sqlite:///` and a path; or, on a PostgreSQL "
            "server, `postgresql://USER@HOST/NAME`: the other files are then in the current folder."
        },
    )
    key_file: str = field(
        default="",
        metadata={
            "help": "The key file. Not set: the systemd credential `pwserver.key`, if there is "
            "one; otherwise beside the database, with the suffix `.key`."
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
            "help": "The audit record. Not set: beside the database, with the suffix `.audit`."
        },
    )
    audit_syslog: str = field(
        default="",
        metadata={
            "help": "The socket of syslog or journald that gets each record as well, such as "
            "`/dev/log`. Not set: none."
        },
    )

    def __post_init__(self) -> None:
        """Check the values."""
        for setting in dataclasses.fields(self):
            if "\0" in str(getattr(self, setting.name)):
                raise ConfigError(f"{setting.name} holds a NUL character; leave it out.")
        if self.server:
            _refuse_password(self.server)
        if re.match("fd:(?![0-9]{1,9}$)", self.key_passphrase):
            raise ConfigError(f"key_passphrase is {self.key_passphrase!r}; fd: needs a number.")
        if self.path.suffix in (
            ".key",
            ".audit",
            ".audit-head",
            ".lock",
            ".revisions",
            ".take-over",
            ".http",
        ):
            raise ConfigError("database ends as a file beside it does; choose another name.")
        self._check_that_files_differ(str(self.path), os.path.normpath)

    def check_files(self) -> None:
        """Raise `ConfigError` if two settings lead to the same file, also through links.

        This looks at the files. Making the settings does not, because defaults are made anywhere.
        """
        self._check_that_files_differ(_resolved(self.path), _file_at)

    def _check_that_files_differ(self, database: str, place: Callable[[str], object]) -> None:
        """Raise `ConfigError` if writing to one file would damage another."""
        taken = {place(database): "the database"}
        taken |= {place(each): "a part of the database" for each in files_beside(database)}
        taken[place(str(Path(database).with_suffix(".lock")))] = "the lock of the service"
        taken[place(f"{database}-lock")] = "the lock of who makes the database"
        taken[place(f"{self.key_path}-lock")] = "the lock of who changes the keys"
        taken[place(str(self.audit_head_path))] = "the end of the audit record"
        taken[place(str(self.revisions_path))] = "the revisions of the applications"
        taken[place(str(self.http_path))] = "the socket of `http`"
        for name, path in self._files().items():
            if not path:
                continue
            what = taken.get(place(path), name)
            if what != name:
                raise ConfigError(f"{name} is {path}, which has {what} in it; choose another file.")
            if not name.startswith("tls_"):  # those may be one file
                taken[place(path)] = name

    def _files(self) -> dict[str, str]:
        """Return the files that settings name, other than the database."""
        return {"key_file": str(self.key_path), "audit_file": str(self.audit_path)}

    @property
    def server(self) -> str:
        """The URL of a database on a PostgreSQL server; empty for a file."""
        scheme, _, rest = self.database.partition("://")
        return f"postgresql://{rest}" if scheme.lower() in _SERVERS else ""

    @property
    def book_name(self) -> str:
        """What people call the database: its file or its URL."""
        return self.server or str(self.path)

    @property
    def path(self) -> Path:
        """The database file; with a server, the file that would have the others beside it."""
        return Path(DEFAULT_FILE) if self.server else _database_path(self.database)

    @property
    def owned_path(self) -> Path:
        """The file whose owner runs the service: the database, or with a server the key file."""
        return self.key_path if self.server else self.path

    @property
    def key_path(self) -> Path:
        """The key file: the one that is set, or a credential, or the one beside the database."""
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
        """The audit record; if it is not set, the one beside the database."""
        return Path(self.audit_file) if self.audit_file else self.path.with_suffix(".audit")

    @property
    def audit_head_path(self) -> Path:
        """The file that says where the audit record ends; always beside the database."""
        return self.path.with_suffix(".audit-head")

    @property
    def revisions_path(self) -> Path:
        """The newest revision of each application, beside the database."""
        return self.path.with_suffix(".revisions")

    @property
    def http_path(self) -> Path:
        """The socket by which the owner of the files asks what `http` shows."""
        return self.path.with_suffix(".http")


@dataclass(frozen=True, kw_only=True)
class Settings(StoreSettings, Address):
    """The settings of the service. Raises `ConfigError` for values that cannot be used."""

    unix: str = field(
        default="", metadata={"help": "A Unix socket to listen on as well. Not set: none."}
    )
    unix_mode: str = field(
        default="600",
        metadata={"help": "The permissions of the Unix socket: who may connect, as for chmod."},
    )
    tls_cert: str = field(
        default="",
        metadata={
            "help": "The service's certificate and the intermediate ones (PEM). With it, all TCP "
            "connections use TLS."
        },
    )
    tls_key: str = field(default="", metadata={"help": "The key (PEM) of `tls_cert`."})
    tls_client_ca: str = field(
        default="",
        metadata={
            "help": "Authorities (PEM) that client certificates must come from, and their "
            "revocation lists, if there are any. `app add --certificate` says which certificate "
            "stands for which application."
        },
    )
    http: str = field(
        default="",
        metadata={
            "help": "Where metrics, health and the page are, as HOST:PORT: in the clear on this "
            "machine (127.0.0.1), elsewhere with the certificate `tls_cert`. Not set: nowhere."
        },
    )
    proxy_protocol_networks: str = field(
        default="",
        metadata={
            "help": "Where balancers are, such as `10.0.0.5,10.0.1.0/24`. A TCP connection from "
            "there must begin with a PROXY header (version 2), which says whose it is. Not set: "
            "there are none."
        },
    )
    insecure: bool = field(
        default=False,
        metadata={
            "help": "Accept connections from other machines without encryption and without "
            "tokens, and treat them as local ones."
        },
    )
    require_locked_memory: bool = field(
        default=False,
        metadata={
            "help": "Refuse to start where memory cannot be locked, so that no key or password "
            "reaches the swap. Not set: it is locked where the limit (`ulimit -l`) allows it."
        },
    )
    guests: str = field(
        default="all",
        metadata={
            "help": "Who may save without a name, count, generate and check without a token: `all` "
            "programs on this machine, or `none` of them."
        },
    )
    audit_bytes_max: int = field(
        default=64 * 1024 * 1024,
        metadata={
            "help": "How long the audit record may become before the service begins a new file, in "
            "bytes; 0 where another program, such as logrotate, does that."
        },
    )
    audit_files_kept: int = field(
        default=0,
        metadata={
            "help": "How many older files of the audit record the service keeps; it deletes the "
            "oldest. 0: all."
        },
    )
    backup_every: str = field(
        default="",
        metadata={
            "help": "How often the service makes a backup of the database and verifies it, such as "
            "`6h` or `1d`. Not set: never."
        },
    )
    backup_dir: str = field(
        default="",
        metadata={"help": "The folder for these backups, best on another disk."},
    )
    backup_keep: int = field(
        default=7,
        metadata={
            "help": "How many of these backups are kept; the oldest are removed after a newer one "
            "was verified. 0: all."
        },
    )
    workers: int = field(
        default=1,
        metadata={
            "help": "The number of worker processes. The first writes for all, and serves clients "
            "too: it is enough for two cores. With more cores, others take reads and TLS; and they "
            "answer while the disk is slow."
        },
    )
    list_users: str = field(
        default="all",
        metadata={
            "help": "The users that `number_of_users` prints on the console: `all`, `none`, or a "
            "number N for the newest N."
        },
    )
    message_bytes_max: int = field(
        default=65536, metadata={"help": "The longest message that is accepted, in bytes."}
    )
    connections_max: int = field(
        default=16384,
        metadata={
            "help": "Connections served at once; others wait to be accepted. The last eighth is "
            "for clients that show a token. A low limit on open files lowers it."
        },
    )
    in_flight_max: int = field(
        default=1024,
        metadata={
            "help": "Unanswered requests of one connection; after so many, no more are read."
        },
    )
    handshake_timeout_s: float = field(
        default=10.0,
        metadata={
            "help": "The longest time for a TLS handshake, and for a PROXY header, in seconds."
        },
    )
    message_timeout_s: float = field(
        default=30.0,
        metadata={"help": "The longest time for a message to arrive after its start, in seconds."},
    )
    send_timeout_s: float = field(
        default=30.0,
        metadata={"help": "The longest time that a client may not read its replies, in seconds."},
    )
    idle_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "The longest time that a client may ask for nothing but pings while others "
            "wait because `connections_max` is reached, in seconds. Otherwise there is no limit."
        },
    )
    peer_timeout_s: float = field(
        default=120.0,
        metadata={
            "help": "The time after which a connection is closed if the client's machine does not "
            "answer at all, in seconds."
        },
    )
    save_timeout_s: float = field(
        default=5.0,
        metadata={
            "help": "The longest time that a save may wait to be written before it is answered "
            "`Not saved!`, and a check before it is answered `Unavailable!`, in seconds."
        },
    )
    disk_reserve_mib: int = field(
        default=64,
        metadata={
            "help": "The room on the disk, in MiB, that saves leave free, for deletions, "
            "administration and the audit record; those of clients without a token leave twice as "
            "much. With less, a save is answered `Not saved!`."
        },
    )
    guest_saves_per_s: int = field(
        default=0,
        metadata={
            "help": "The most saves a second of all clients without a token together. 0: any "
            "number."
        },
    )
    guest_users_max: int = field(
        default=0,
        metadata={
            "help": "The most users in the common book: with so many, a save of a client without a "
            "token is answered `Not saved!`. 0: any number."
        },
    )
    versions_kept: int = field(
        default=10,
        metadata={"help": "The number of older versions of each user's password to keep."},
    )
    requests_kept_s: float = field(
        default=86_400.0,
        metadata={
            "help": "How long a `request_id` is remembered, in seconds. During this time, a save "
            "that is sent again is not done again."
        },
    )
    stop_timeout_s: float = field(
        default=10.0,
        metadata={
            "help": "The time after which a stop kills the processes that still run, in seconds."
        },
    )
    hang_timeout_s: float = field(
        default=10.0,
        metadata={
            "help": "The time after which a process that does not respond is replaced, in seconds."
        },
    )
    log_format: str = field(
        default="text",
        metadata={"help": "The form of a line of the log: `text`, or `json` for programs."},
    )
    log_level: str = field(
        default="info",
        metadata={
            "help": "What is logged: `debug`, `info`, `warning` or `error`, and what is worse."
        },
    )

    def __post_init__(self) -> None:
        """Check every value, so that a wrong one is reported when the service starts."""
        StoreSettings.__post_init__(self)
        Address.__post_init__(self)
        if self.audit_bytes_max:  # fewer bytes than a record may have would give one file each
            _between("audit_bytes_max", self.audit_bytes_max, 65536, 2**40)
        _between("audit_files_kept", self.audit_files_kept, 0, 1_000_000)
        if self.audit_files_kept and not self.audit_bytes_max:
            raise ConfigError(
                "audit_files_kept is set, and audit_bytes_max is 0: it has no effect."
            )
        _between("backup_keep", self.backup_keep, 0, 1_000_000)
        if bool(self.backup_every) != bool(self.backup_dir):
            raise ConfigError(
                "backup_every and backup_dir belong together; one of them is not set."
            )
        if self.backup_every and self.server:
            raise ConfigError(
                "backup_every is for a database in a file; with PostgreSQL use pg_basebackup and "
                "an archive of its log, or pg_dump."
            )
        if self.backup_every and not 1 <= self.backup_every_s <= 366 * 86_400:
            raise ConfigError(
                f"backup_every is {self.backup_every!r}; it must be a number of s, m, h, d or w, "
                "such as 6h, up to a year."
            )
        _between("workers", self.workers, 1, 64)
        _between("message_bytes_max", self.message_bytes_max, 256, 16 * 1024 * 1024)
        _between("connections_max", self.connections_max, 1, 1_000_000)
        _between("in_flight_max", self.in_flight_max, 1, 1_000_000)
        _between("disk_reserve_mib", self.disk_reserve_mib, 0, 1_000_000)
        _between("guest_saves_per_s", self.guest_saves_per_s, 0, 1_000_000)
        _between("guest_users_max", self.guest_users_max, 0, 10**12)
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
        _one_of("log_format", self.log_format, FORMATS)
        _one_of("log_level", self.log_level, LEVELS)
        if self.guests not in ("all", "none"):
            raise ConfigError(f"guests is {self.guests!r}; it must be all or none.")
        self._check_ways_in()

    @property
    def log_style(self) -> Style:
        """How the log lines look."""
        return Style(self.log_format, self.log_level)

    @property
    def backup_every_s(self) -> int:
        """How often the service makes a backup, in seconds; 0: never."""
        return duration_s(self.backup_every)

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
        if self.tls_cert and self.host == NO_HOST and not self.http:
            raise ConfigError("tls_cert is set, and host is none: TLS is for TCP alone.")
        if self.http:
            _ = self.http_address
        if self.balancers and self.host == NO_HOST:
            raise ConfigError("proxy_protocol_networks is set, and host is none: it is for TCP.")

    @property
    def balancers(self) -> str:
        """The `proxy_protocol_networks` as they are compared. Raises `ConfigError` for others."""
        given = self.proxy_protocol_networks
        with contextlib.suppress(ConfigError):
            networks = stored(given.replace(",", " ").split())
            if UNIX not in networks and bool(networks) == bool(given):
                return networks
        raise ConfigError(
            f"proxy_protocol_networks is {given!r}; it must be up to {NETWORKS_MAX} networks such "
            "as 10.0.0.0/8,192.0.2.7,2001:db8::/32."
        )

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of `http`. Raises `ConfigError` if it is something else."""
        found = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^\[\]:\s]+)):([0-9]{1,5})", self.http)
        if found is None:
            raise ConfigError(f"http is {self.http!r}; it must be such as 127.0.0.1:9464.")
        _between("http port", port := int(found[3]), 0, 65535)
        return found[1] or found[2], port


def settings_file(settings: Settings) -> BinaryIO:
    """Return a file that is only in memory, for another process of the service to read."""
    return file_of(json.dumps(dataclasses.asdict(settings)).encode())


def settings_from(descriptor: int) -> Settings:
    """Read the settings from such a file, and close the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        return Settings(**json.load(file))


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def duration_s(text: str) -> int:
    """Return a duration such as 90d in seconds; 0 for anything else."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    return int(found[1]) * _UNITS_S[found[2]] if found else 0


def files_beside(database: str) -> list[str]:
    """Return the files that SQLite keeps beside a database."""
    return [f"{database}{suffix}" for suffix in ("-wal", "-shm", "-journal")]


def _file_at(path: str) -> object:
    """Return what identifies a file: its inode, or the path where it would be made."""
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
    """Return a host as it is written before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_credential(path: str | os.PathLike[str]) -> bool:
    """Return whether the file is a credential of systemd, which protects it by its own means."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and Path(path).parent == Path(folder or "")


def _credential(name: str) -> Path | None:
    """Return the file of a credential that systemd gave the service, or None."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder or "", name)
    return path if folder and os.path.exists(path) else None


def _database_path(database: str) -> Path:
    """Return the file that a `database` setting names, or raise `ConfigError`."""
    scheme, separator, rest = database.partition("://")
    if separator and scheme.lower() != "sqlite":
        raise ConfigError(
            f"database has the scheme {scheme!r}; only sqlite and postgresql are supported."
        )
    if separator and not rest.startswith("/"):
        raise ConfigError("database names a host; write sqlite:/// and a path.")
    path = Path(rest[1:] if separator else database)
    if not path.name or "\0" in database:
        raise ConfigError("database is empty; give a file name such as user_data.db.")
    return path


def _refuse_password(url: str) -> None:
    """Raise `ConfigError` for a URL of a server that has a password in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError("database is no URL that can be read; see docs/operations.md.") from None
    users, _, _ = parts.netloc.rpartition("@")
    named = {name.lower() for name in parse_qs(parts.query, keep_blank_values=True)}
    if ":" in users or named & {"password", "sslpassword"}:
        raise ConfigError(
            "database has a password in it, which others could see. Leave it out: put it into the "
            "file that PGPASSFILE names (~/.pgpass), or into a service file (?service=NAME)."
        )


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


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(
            f"{name} is {value!r}; it must be {', '.join(known[:-1])} or {known[-1]}."
        )


def _between(name: str, value: Any, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must be from {low} to {high}.")
