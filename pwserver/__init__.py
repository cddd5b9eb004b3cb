"""A password book that many applications share.

`from pwserver import Client` is all that an application needs, or `AsyncClient`; the service is
started by the `pwserver serve` command.

Everything is imported when it is asked for. asyncio would double the time of an import, and `python
-m pwserver` imports this before it can take the current folder out of the way.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pwserver.client.aio import AsyncClient
    from pwserver.client.pipeline import AsyncPipeline, Pending, Pipeline
    from pwserver.client.results import (
        Generated,
        Page,
        Password,
        Saved,
        SavedVersion,
        Status,
        Strength,
        User,
    )
    from pwserver.client.sync import Client
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
        VersionConflict,
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
    "VersionConflict",
]
__version__ = "1.0.0"

_MODULES = ("errors", "client.results", "client.pipeline", "client.sync", "client.aio")
"""Where they are, the slowest last."""


def __getattr__(name: str) -> object:
    """Import what is asked for."""
    if name in __all__:
        from importlib import import_module  # noqa: PLC0415 - as above

        for module in _MODULES:
            found = vars(import_module(f"{__name__}.{module}")).get(name)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return what there is, imported or not."""
    return [*globals(), *__all__]
