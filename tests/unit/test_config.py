"""Settings: each has a default, bounds, and a place in the documents' table."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwserver.config import (
    Address,
    ClientSettings,
    Settings,
    StoreSettings,
    environment_variable,
    is_credential,
    settings_table,
)
from pwserver.errors import ConfigError, ExitCode

FIELDS = {setting.name: setting for setting in dataclasses.fields(Settings)}
MANY_NETWORKS = ",".join(f"10.0.0.{number}" for number in range(65))
SECONDS = (0.5, 86_400, 0.4999, 86_400.1)
BOUNDS: dict[str, tuple[float, float, float, float]] = {  # low and high, and what is beyond them
    "port": (0, 65_535, -1, 65_536),
    "audit_bytes_max": (65_536, 2**40, 65_535, 2**40 + 1),  # or 0
    "audit_files_kept": (0, 1_000_000, -1, 1_000_001),
    "backup_keep": (0, 1_000_000, -1, 1_000_001),
    "workers": (1, 64, 0, 65),
    "message_bytes_max": (256, 16 * 1024 * 1024, 255, 16 * 1024 * 1024 + 1),
    "connections_max": (1, 1_000_000, 0, 1_000_001),
    "in_flight_max": (1, 1_000_000, 0, 1_000_001),
    "versions_kept": (0, 1_000_000, -1, 1_000_001),
    "requests_kept_s": (1, 366 * 86_400, 0.9, 366 * 86_400 + 1),
    "handshake_timeout_s": SECONDS,
    "message_timeout_s": SECONDS,
    "send_timeout_s": SECONDS,
    "idle_timeout_s": SECONDS,
    "peer_timeout_s": (1, 43_200, 0.9, 43_201),
    "save_timeout_s": SECONDS,
    "stop_timeout_s": SECONDS,
    "hang_timeout_s": SECONDS,
    "disk_reserve_mib": (0, 1_000_000, -1, 1_000_001),
    "guest_saves_per_s": (0, 1_000_000, -1, 1_000_001),
    "guest_users_max": (0, 10**12, -1, 10**12 + 1),
}
TEXTS: dict[str, tuple[list[str], list[str]]] = {  # what is taken, and what is not
    "host": (["127.0.0.1", "::", "localhost"], ["", "a\0b"]),
    "database": (
        ["book.db", "sqlite:///book.db"],
        ["", "mysql://host/book", "book.key", "book.audit", "book.audit-head", "a.take-over"],
    ),
    "key_file": (["", "any.key"], ["a\0b", "user_data.db", "./user_data.audit-head"]),
    "key_passphrase": (["", "any.file", "fd:3"], ["a\0b", "fd:", "fd:-1", "fd:x"]),
    "audit_file": (
        ["", "/var/log/any"],
        ["a\0b", "user_data.db", "x/../user_data.key", "user_data.audit-head"],
    ),
    "audit_syslog": (["", "/dev/log"], ["\0abstract"]),
    "backup_every": (
        ["", "1s", "6h", "1d", "52w"],
        ["0s", "6", "h", "6 h", "6x", "-1h", "1.5h", "367d", "9999999999s"],
    ),
    "backup_dir": (["", "backups", "/mnt/backups"], ["a\0b"]),
    "unix": (["", "/run/pwserver.sock"], ["\0abstract"]),
    "http": (["", "127.0.0.1:0", "[::1]:9464", "a.b:1"], ["x", "::1:5", ":5", "a:b", "a:65536"]),
    "unix_mode": (["600", "0660", "777"], ["", "6", "0o600", "888", "1777", "u+rw", " 600"]),
    "tls_cert": (["", "cert.pem"], ["a\0b"]),
    "tls_key": (["", "key.pem"], ["a\0b"]),
    "tls_client_ca": (["", "ca.pem"], ["a\0b"]),
    "proxy_protocol_networks": (
        ["", "10.0.0.5", "10.0.0.0/8,127.0.0.1", "2001:db8::/32, ::1", "0.0.0.0/0"],
        [
            ",",
            "unix",
            "10.0.0.5,unix",
            "10.0.0.1/8",
            "balancer",
            ",".join(f"10.0.0.{n}" for n in range(65)),
        ],
    ),
    "guests": (["all", "none"], ["", "some", "ALL", "True"]),
    "log_format": (["text", "json"], ["", "JSON", "xml"]),
    "log_level": (["debug", "info", "warning", "error"], ["", "INFO", "critical"]),
    "list_users": (
        ["all", "none", "0", "1000"],
        ["", "some", "ALL", "-1", "1.5", "10 ", "1" * 30],
    ),
}
SWITCHES = {"insecure", "require_locked_memory"}
TLS: dict[str, Any] = {"tls_cert": "cert.pem", "tls_key": "key.pem"}
BALANCERS: dict[str, Any] = {"proxy_protocol_networks": "10.0.0.5"}
BACKUPS: dict[str, Any] = {"backup_every": "6h", "backup_dir": "backups"}
NEEDED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("tls_cert", "tls_key", "tls_client_ca"), TLS),
    **dict.fromkeys(BACKUPS, BACKUPS),
}
"""What a setting needs beside it."""


def with_needed(setting: str, value: Any) -> Settings:
    """Return settings with a value of one of them, and what that needs."""
    return Settings(**{**(NEEDED.get(setting, {}) if value else {}), setting: value})


def check_sentence(error: ConfigError, setting: str) -> None:
    """Check that an error is one plain sentence about a setting, for a wrong use."""
    text = str(error)
    assert text.startswith(f"{setting} ")
    assert re.fullmatch(r"[^\n]{10,}\.", text)
    assert error.exit_code == ExitCode.USAGE


def test_defaults_are_the_contracts() -> None:
    """Without any setting the service is where applications look for it."""
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 12345)
    assert settings.path == Path("user_data.db")
    assert settings.key_path == Path("user_data.key")
    assert settings.list_users == "all"
    assert settings.message_bytes_max == 64 * 1024
    assert settings.stop_timeout_s == 10
    assert (settings.versions_kept, settings.requests_kept_s) == (10, 24 * 60 * 60)
    assert (settings.unix, settings.tls_cert, settings.insecure) == ("", "", False)
    assert settings.unix_mode == "600"


def test_the_record_may_be_rotated_by_others() -> None:
    """A length of 0 is below the lowest, and means that the service makes no new file."""
    assert Settings(audit_bytes_max=0).audit_bytes_max == 0


def test_every_setting_is_checked_here() -> None:
    """No setting can be added without bounds, or examples, in this file."""
    assert set(BOUNDS) | set(TEXTS) | SWITCHES == set(FIELDS)
    assert not set(BOUNDS) & set(TEXTS)
    assert {name for name, each in FIELDS.items() if isinstance(each.default, bool)} == SWITCHES


@pytest.mark.parametrize("setting", FIELDS)
def test_every_setting_has_a_default_and_help(setting: str) -> None:
    """Each setting can be left out, and says in a sentence what it is for."""
    field = FIELDS[setting]
    assert getattr(Settings(), setting) == field.default
    assert re.fullmatch(r"[A-Z][^\n|]{10,}\.", field.metadata["help"])


@pytest.mark.parametrize("setting", BOUNDS)
def test_numbers_are_taken_up_to_their_bounds(setting: str) -> None:
    """The lowest and the highest number of a setting are taken, and its default lies between."""
    low, high, _, _ = BOUNDS[setting]
    for value in (low, high):
        settings: Any = {setting: value}
        assert getattr(Settings(**settings), setting) == value
    assert low <= getattr(Settings(), setting) <= high


@pytest.mark.parametrize("setting", BOUNDS)
@pytest.mark.parametrize("beyond", ["below", "above", "far below", "far above", "no number"])
def test_numbers_beyond_their_bounds_are_refused(setting: str, beyond: str) -> None:
    """A number beyond what a setting takes is refused in one sentence that has both bounds."""
    low, high, below, above = BOUNDS[setting]
    value = {"below": below, "above": above, "far below": -math.inf, "far above": math.inf}
    settings: Any = {setting: value.get(beyond, math.nan)}
    with pytest.raises(ConfigError) as refusal:
        Settings(**settings)
    check_sentence(refusal.value, setting)
    assert f"from {low} to {high}." in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "value"), [(name, value) for name, (good, _) in TEXTS.items() for value in good]
)
def test_good_texts_are_taken(setting: str, value: str) -> None:
    """Each form that a text setting may have is taken as it is."""
    assert getattr(with_needed(setting, value), setting) == value


@pytest.mark.parametrize(
    ("setting", "value"), [(name, value) for name, (_, bad) in TEXTS.items() for value in bad]
)
def test_bad_texts_are_refused(setting: str, value: str) -> None:
    """A text that a setting cannot use is refused in one sentence."""
    with pytest.raises(ConfigError) as refusal:
        with_needed(setting, value)
    check_sentence(refusal.value, setting)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"host": "none"}, "host is none and unix is not set"),
        ({"audit_bytes_max": 0, "audit_files_kept": 1}, "audit_files_kept is set, and audit_b"),
        ({"tls_cert": "cert.pem"}, "tls_cert and tls_key belong together"),
        ({"tls_key": "key.pem"}, "tls_cert and tls_key belong together"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca is set, and tls_cert is not"),
        ({"host": "none", "unix": "a.sock", **TLS}, "tls_cert is set, and host is none"),
        (
            {"host": "none", "unix": "a.sock", **BALANCERS},
            "proxy_protocol_networks is set, and host",
        ),
        ({"key_file": "user_data.db-wal"}, "key_file is user_data.db-wal, which has a part of"),
        ({"audit_file": "x.db-shm", "database": "x.db"}, "audit_file is x.db-shm, which has a"),
        ({"unix": "user_data.db-journal"}, "unix is user_data.db-journal, which has a part of"),
        ({"unix": "user_data.audit-head"}, "unix is user_data.audit-head, which has the end"),
        ({"tls_cert": "user_data.db-wal", "tls_key": "k"}, "tls_cert is user_data.db-wal, which"),
        ({"key_file": "a", "audit_file": "./a"}, "audit_file is a, which has key_file in it"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(
    values: dict[str, Any], reason: str
) -> None:
    """What would leave no way in, or be without effect, is said in one sentence."""
    with pytest.raises(ConfigError, match=f"^{reason}") as refusal:
        Settings(**values)
    check_sentence(refusal.value, reason.split(maxsplit=1)[0])


def test_a_service_may_be_reached_by_a_socket_alone() -> None:
    """Without a TCP address there is that of the Unix socket."""
    settings = Settings(host="none", unix="/run/pwserver.sock", unix_mode="660")
    assert (settings.host, settings.unix) == ("none", "/run/pwserver.sock")


@pytest.mark.parametrize("value", [0, 0.009, 86_401, -1, math.nan, math.inf])
def test_a_clients_timeout_has_bounds(value: float) -> None:
    """Commands that talk to a service wait neither for no time nor for ever."""
    with pytest.raises(ConfigError) as refusal:
        ClientSettings(timeout_s=value)
    check_sentence(refusal.value, "timeout_s")
    assert ClientSettings(timeout_s=0.01).timeout_s == 0.01


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (ClientSettings(), "pwserver://127.0.0.1:12345"),
        (ClientSettings(host="book.example", port=1), "pwserver://book.example:1"),
        (ClientSettings(host="::1", port=7), "pwserver://[::1]:7"),
        (ClientSettings(url="pwserver://a:2", host="b", port=3), "pwserver://a:2"),
    ],
)
def test_a_client_is_told_where_the_service_is_by_one_url(
    settings: ClientSettings, url: str
) -> None:
    """The URL is made of host and port, IPv6 addresses in brackets, unless it is set itself."""
    assert settings.service_url == url


def test_clients_and_stores_check_what_they_share() -> None:
    """The settings that commands share with the service have the same bounds there."""
    for bad in ({"port": 65_536}, {"host": ""}):
        wrong: Any = bad
        for kind in (Address, ClientSettings, Settings):
            with pytest.raises(ConfigError):
                kind(**wrong)
    with pytest.raises(ConfigError):
        StoreSettings(database="mysql://host/book")


def test_settings_cannot_be_changed() -> None:
    """What was checked stays what is used."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("database", "path"),
    [
        ("user_data.db", "user_data.db"),
        ("dir/user_data.db", "dir/user_data.db"),
        ("/var/lib/user_data.db", "/var/lib/user_data.db"),
        ("with space.db", "with space.db"),
        ("sqlite:///user_data.db", "user_data.db"),
        ("sqlite:///dir/user_data.db", "dir/user_data.db"),
        ("sqlite:////var/lib/user_data.db", "/var/lib/user_data.db"),
        ("SQLite:///user_data.db", "user_data.db"),
    ],
)
def test_a_database_is_a_file_name_or_a_url(database: str, path: str) -> None:
    """Three slashes begin a relative path and four an absolute one, as in other programs."""
    assert StoreSettings(database=database).path == Path(path)


def test_a_database_on_a_server_has_its_files_in_the_current_folder() -> None:
    """Under the names that they have beside the database that is not set."""
    settings = StoreSettings(database="postgres://a@h1,h2:5433/book?target_session_attrs=any")
    assert settings.server == "postgresql://a@h1,h2:5433/book?target_session_attrs=any"
    assert settings.book_name == settings.server
    files = (settings.key_path, settings.audit_path, settings.revisions_path)
    assert [str(each) for each in files] == [
        "user_data.key",
        "user_data.audit",
        "user_data.revisions",
    ]


@pytest.mark.parametrize(
    "database",
    ["postgresql://a:hunter2@host/book", "POSTGRES://a:hunter2@h1,h2/book",
     "postgresql://host/book?user=a&password=hunter2", "postgresql:///b?sslpassword=hunter2",
     "postgresql:///b?oauth_client_secret=hunter2"],
)  # fmt: skip
def test_a_password_in_the_database_is_refused_and_not_repeated(database: str) -> None:
    """Everybody could see it in the arguments; libpq has files for it."""
    with pytest.raises(ConfigError, match="PGPASSFILE") as refusal:
        StoreSettings(database=database)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "database",
    ["", "\0", "a\0b", "sqlite:///", "sqlite://", "mysql://u:p@host/book", "postgres://[/book",
     "postgresql:u:p@host/book", "://book", "sqlite://[", "a.key", "sqlite:///a.key", ".", "/"],
)  # fmt: skip
def test_what_names_no_database_is_refused(database: str) -> None:
    """Other kinds of databases, nothing at all, or a key file's name is refused in one sentence."""
    with pytest.raises(ConfigError) as refusal:
        StoreSettings(database=database)
    check_sentence(refusal.value, "database")


@pytest.mark.parametrize(
    ("database", "path"),
    [
        ("sqlite://dir/user_data.db", "dir/user_data.db"),
        ("sqlite:///a#b.db", "a#b.db"),
        ("sqlite:///a?b.db", "a?b.db"),
    ],
)
def test_a_database_is_never_another_file(database: str, path: str) -> None:
    """A URL that can be misunderstood names the file that it shows, or is refused."""
    try:
        settings = StoreSettings(database=database)
    except ConfigError:
        return
    assert settings.path == Path(path)


@given(st.text() | st.text(alphabet="sqlite:/.?#[]@%\0 key-").map("sqlite://".__add__))
def test_any_database_is_taken_or_refused(database: str) -> None:
    """No text makes anything but a database with its other files beside it, or a sentence."""
    try:
        each = StoreSettings(database=database)
        assert len({each.path, each.key_path, each.audit_path, each.audit_head_path}) == 4
    except ConfigError as error:
        check_sentence(error, "database")


@pytest.mark.parametrize(
    ("database", "key_file", "key_path"),
    [
        ("user_data.db", "", "user_data.key"),
        ("dir/book", "", "dir/book.key"),
        ("/var/lib/book.old.db", "", "/var/lib/book.old.key"),
        ("sqlite:////var/lib/book.sqlite", "", "/var/lib/book.key"),
        ("/var/lib/user_data.db", "/etc/pwserver/secret", "/etc/pwserver/secret"),
        ("/var/lib/user_data.db", "other.key", "other.key"),
    ],
)
def test_the_key_is_beside_the_database(database: str, key_file: str, key_path: str) -> None:
    """The key file is where it was said to be, or else beside the database, by its name."""
    assert StoreSettings(database=database, key_file=key_file).key_path == Path(key_path)


def test_a_credential_of_systemd_is_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where systemd gives the service a `pwserver.key`, that is it, unless a file is named."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert StoreSettings().key_path == Path("user_data.key")
    credential = tmp_path / "pwserver.key"
    credential.touch()
    assert StoreSettings(database="/var/lib/book.db").key_path == credential
    assert StoreSettings(key_file="other.key").key_path == Path("other.key")
    assert (is_credential(credential), is_credential(Path("pwserver.key"))) == (True, False)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "")
    assert StoreSettings().key_path == Path("user_data.key")
    assert not is_credential(Path("pwserver.key"))


@pytest.mark.parametrize(
    ("database", "audit_file", "audit_path", "head_path"),
    [
        ("user_data.db", "", "user_data.audit", "user_data.audit-head"),
        ("dir/book", "", "dir/book.audit", "dir/book.audit-head"),
        ("/var/lib/book.db", "/var/log/a.log", "/var/log/a.log", "/var/lib/book.audit-head"),
    ],
)
def test_the_end_of_the_record_is_beside_the_database(
    database: str, audit_file: str, audit_path: str, head_path: str
) -> None:
    """Wherever the record is: who may change the folder of logs cannot change its end."""
    settings = StoreSettings(database=database, audit_file=audit_file)
    assert (settings.audit_path, settings.audit_head_path) == (Path(audit_path), Path(head_path))


def test_the_table_has_every_setting_once() -> None:
    """The documents' table has a row for each setting, with its names, its default and its help."""
    header, ruler, *rows = settings_table().splitlines()
    assert header.count("|") == ruler.count("|") == 6
    assert len(rows) == len(FIELDS)
    for row, (name, field) in zip(rows, FIELDS.items(), strict=True):
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        flag = "--" + name.replace("_", "-")
        names = [f"`{flag}`", f"`PWSERVER_{name.upper()}`", f"`{name}`"]
        default = f"`{field.default}`" if field.default != "" else ""
        assert cells == [*names, default, field.metadata["help"]]
        assert environment_variable(name) == f"PWSERVER_{name.upper()}"
