"""A password book that many applications share.

`from pwserver import Client` is all that an application needs; the service is started by the
`pwserver serve` command.
"""

from pwserver.client import Client, Pipeline
from pwserver.errors import (
    ConnectionFailed,
    FateUnknown,
    InvalidMessage,
    NotSaved,
    PwserverError,
    Refused,
    Unavailable,
)

__all__ = [
    "Client",
    "ConnectionFailed",
    "FateUnknown",
    "InvalidMessage",
    "NotSaved",
    "Pipeline",
    "PwserverError",
    "Refused",
    "Unavailable",
]
__version__ = "0.1.0"
