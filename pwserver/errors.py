"""The error tree and the exit codes.

One tree for everything that can go wrong on purpose. The branch under `Refused` is the wire's: the
service answers with these words and the client raises these classes, so both sides speak of a
failure by one name. The texts are for people: one plain sentence, never a password or a key.
"""

from enum import IntEnum
from typing import ClassVar, Self


class ExitCode(IntEnum):
    """What the `pwserver` command tells the shell; `EXIT_CODE_MEANINGS` says it in words."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    ADDRESS = 4
    STORE = 5
    STORAGE = 6
    STOP_TIMEOUT = 7
    FATE_UNKNOWN = 8
    DECLINED = 9


EXIT_CODE_MEANINGS = {
    ExitCode.OK: "done; for `serve`: stopped as asked, everything received was answered",
    ExitCode.FAILED: "what was asked for was refused, or something unforeseen went wrong",
    ExitCode.USAGE: "a setting, an argument or the input is wrong",
    ExitCode.UNREACHABLE: "the service cannot be reached, or the connection was lost",
    ExitCode.ADDRESS: "the address to listen on is in use or not available",
    ExitCode.STORE: "a file was refused (keys, database, certificates, audit); it was not changed",
    ExitCode.STORAGE: "the disk is full or failed; only what was acknowledged is surely saved",
    ExitCode.STOP_TIMEOUT: "a stop passed its deadline, or was asked for twice: children killed",
    ExitCode.FATE_UNKNOWN: "the answer to a change was lost: it may or may not have been done",
    ExitCode.DECLINED: "a command asked first, and the answer was no: nothing was done",
}
"""The table of exit codes in docs/operations.md is made of these."""


class PwserverError(Exception):
    """The root: every error this project raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class ConfigError(PwserverError):
    """A setting has a value that cannot be used."""

    exit_code = ExitCode.USAGE


class Declined(PwserverError):
    """A command asked whether something is really meant, and it was not; nothing was done."""

    exit_code = ExitCode.DECLINED


class ListenError(PwserverError):
    """The address cannot be listened on."""

    exit_code = ExitCode.ADDRESS


class ServiceFailed(PwserverError):
    """The service cannot be started, for a reason that is none of the others."""


class StoreError(PwserverError):
    """One of the service's files cannot be used as it is; the text says what to do."""

    exit_code = ExitCode.STORE


class KeyRefused(StoreError):
    """The key file is missing, readable by others, not a key file, or not this database's."""


class DatabaseRefused(StoreError):
    """The database is damaged, of an unknown schema version, or not a password book at all."""


class SqliteRefused(StoreError):
    """The SQLite library in use may lose committed data."""


class AuditRefused(StoreError):
    """The audit record cannot be written or read, or is not as it was written."""


class AdministrationRefused(PwserverError):
    """What an administrator asked for is not to be done; nothing was."""


class StorageFailed(PwserverError):
    """The disk reported an error while a transaction was being written or synced."""

    exit_code = ExitCode.STORAGE


class StopTimedOut(PwserverError):
    """The service was asked to stop and has not ended in time."""

    exit_code = ExitCode.STOP_TIMEOUT


class ConnectionFailed(PwserverError):
    """The service cannot be reached, was too slow, or closed the connection.

    Unless it is a `FateUnknown`, what was asked had no effect.
    """

    exit_code = ExitCode.UNREACHABLE


class FateUnknown(ConnectionFailed):
    """A change was under way when its answer was lost: it may or may not have been done."""

    exit_code = ExitCode.FATE_UNKNOWN


class TlsFailed(ConnectionFailed):
    """No encrypted connection: a certificate was not accepted, or one side does not speak TLS.

    Nothing of what was asked was done, and asking again is of no use before that is put right.
    """


class ProtocolViolation(ConnectionFailed):
    """The other side sent something that is not an answer of this service."""


class Refused(PwserverError):
    """The service answered, and the answer was no.

    `message` is the word that stands in the reply's "message" on the wire.
    """

    message: ClassVar[str]


class InvalidMessage(Refused):
    """The request is not one that the service understands."""

    message = "Invalid message!"


class NotSaved(Refused):
    """The service could not save, and nothing was saved."""

    message = "Not saved!"


class VersionConflict(NotSaved):
    """The user's newest version is another than the request would save over; nothing was saved.

    `version` is the newest one, or 0 where there is no such user.
    """

    def __init__(self, text: str, version: int) -> None:
        super().__init__(text)
        self.version = version

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        """Let a pool of processes hand it on: with the text alone it cannot be made again."""
        return type(self), (str(self), self.version)


class UnknownUser(Refused):
    """There is no user of that name."""

    message = "Unknown user!"


class UnknownVersion(Refused):
    """The user has no such version of the password, or has it no more."""

    message = "Unknown version!"


class Denied(Refused):
    """Who asks may not have this done."""

    message = "Denied!"


class Unavailable(Refused):
    """The service could not do what was asked.

    In answer to a save it means that the outcome is not known, and the client raises
    `FateUnknown`; a save that certainly did not happen is answered `NotSaved`.
    """

    message = "Unavailable!"


class ServerAway(Unavailable):
    """The database server does not answer now; it may in a moment."""
