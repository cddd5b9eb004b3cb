"""A password book that many applications share.

`from pwserver import Client` is all that an application needs, or `AsyncClient`; the service is
started by the `pwserver serve` command. A name is loaded when it is first used: the service, its
processes and the commands load none of the client that they do not need.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwserver.async_client import AsyncClient
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
    from pwserver.pipeline import (
        AsyncPipeline,
        Pending,
        Pipeline,
    )
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
    "Pending",
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

_MODULES = {
    "AsyncClient": "pwserver.async_client",
    "Client": "pwserver.client",
    "ConfigError": "pwserver.errors",
    "ConnectionFailed": "pwserver.errors",
    "Denied": "pwserver.errors",
    "FateUnknown": "pwserver.errors",
    "InvalidMessage": "pwserver.errors",
    "NotSaved": "pwserver.errors",
    "ProtocolViolation": "pwserver.errors",
    "PwserverError": "pwserver.errors",
    "Refused": "pwserver.errors",
    "TlsFailed": "pwserver.errors",
    "Unavailable": "pwserver.errors",
    "UnknownUser": "pwserver.errors",
    "UnknownVersion": "pwserver.errors",
    "AsyncPipeline": "pwserver.pipeline",
    "Pending": "pwserver.pipeline",
    "Pipeline": "pwserver.pipeline",
    "Generated": "pwserver.results",
    "Page": "pwserver.results",
    "Password": "pwserver.results",
    "Saved": "pwserver.results",
    "SavedVersion": "pwserver.results",
    "Status": "pwserver.results",
    "Strength": "pwserver.results",
    "User": "pwserver.results",
}


def __getattr__(name: str) -> object:
    """Load a name of the client library when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
