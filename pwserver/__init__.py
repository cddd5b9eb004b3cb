"""A password book that many applications share.

`from pwserver import Client` is all that an application needs, or `AsyncClient`; the service is
started by the `pwserver serve` command.
"""

from typing import TYPE_CHECKING

from pwserver.client import Client
from pwserver.errors import (
    ConfigError,
    ConnectionFailed,
    Denied,
    FateUnknown,
    InvalidMessage,
    NotSaved,
    ProtocolViolation,
    PwserverError,
    Refused,
    TlsFailed,
    Unavailable,
    UnknownUser,
    UnknownVersion,
)
from pwserver.pipeline import AsyncPipeline, Pipeline
from pwserver.results import (
    Generated,
    Page,
    Password,
    Saved,
    SavedVersion,
    Status,
    Strength,
    User,
)

if TYPE_CHECKING:
    from pwserver.async_client import AsyncClient

__all__ = [
    "AsyncClient",
    "AsyncPipeline",
    "Client",
    "ConfigError",
    "ConnectionFailed",
    "Denied",
    "FateUnknown",
    "Generated",
    "InvalidMessage",
    "NotSaved",
    "Page",
    "Password",
    "Pipeline",
    "ProtocolViolation",
    "PwserverError",
    "Refused",
    "Saved",
    "SavedVersion",
    "Status",
    "Strength",
    "TlsFailed",
    "Unavailable",
    "UnknownUser",
    "UnknownVersion",
    "User",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `AsyncClient` when it is asked for: asyncio would double the time of an import."""
    if name == "AsyncClient":
        from pwserver.async_client import AsyncClient  # noqa: PLC0415

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
