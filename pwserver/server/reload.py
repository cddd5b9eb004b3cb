"""What SIGHUP changes: which settings can be changed while the service runs, and which were.

Knows only settings: the supervisor passes them on.
"""

import dataclasses
from dataclasses import dataclass

from pwserver.config import Settings

LIVE = frozenset(
    {
        "guest_saves_per_s",
        "guest_users_max",
        "guests",
        "hang_timeout_s",
        "idle_timeout_s",
        "in_flight_max",
        "log_level",
        "message_bytes_max",
        "message_timeout_s",
        "send_timeout_s",
        "stop_timeout_s",
        "tls_cert",
        "tls_client_ca",
        "tls_key",
        "versions_kept",
    }
)
"""The settings that need no other process and no other file. All others need a new program, which
can take over without a client noticing it (`take_over`)."""


@dataclass(frozen=True)
class Changes:
    """What differs between the settings in use and those that were read."""

    settings: Settings  # those in use from now on
    made: list[str]  # the names of those that have changed, with both values
    needed: list[str]  # the names of those that a new program would use


def changes(used: Settings, read: Settings) -> Changes:
    """Compare settings. Whether there is TLS is not changed while the service runs."""
    names = [each.name for each in dataclasses.fields(used)]
    differing = [name for name in names if getattr(used, name) != getattr(read, name)]
    live = LIVE
    if bool(used.tls_cert) != bool(read.tls_cert):
        live -= {"tls_cert", "tls_key", "tls_client_ca"}
    now = [name for name in differing if name in live]
    values = {name: getattr(read, name) for name in now}
    made = [f"{name} ({getattr(used, name)} -> {getattr(read, name)})" for name in now]
    needed = [name for name in differing if name not in live]
    return Changes(dataclasses.replace(used, **values), made, needed)
