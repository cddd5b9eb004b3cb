"""What applications do to one name: each is begun in the ledger, done, and noted as it went.

`begin` is called before a byte leaves, so that what is under way is open. `do` asks the service,
and notes what was acknowledged; it returns what is wrong with the reply, in words, or nothing.
Where it raises `FateUnknown` everything stays open; after any other error nothing was done, and
`undone` takes back what was begun.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from pwserver import Client
from tests.trials.torture.ledger import GENERATED, GENERATED_FROM, Labels, Name


class Operation(ABC):
    """Something that is asked about one name."""

    changes = True

    def __init__(self, name: str, known: Name) -> None:
        self.name = name
        self.known = known

    def begin(self) -> None:  # noqa: B027 - what only reads begins nothing
        """Note that it is under way."""

    @abstractmethod
    def do(self, client: Client) -> str:
        """Do it; return what is wrong with the reply, if anything is."""

    def undone(self) -> None:  # noqa: B027
        """Note that it was not done."""


class Save(Operation):
    """A save of a new version, which sets the labels as well where there are any."""

    def __init__(self, name: str, known: Name, password: str, labels: Labels | None) -> None:
        super().__init__(name, known)
        self._password = password
        self._labels = labels

    def begin(self) -> None:
        """The password, and the labels, may be there from here on."""
        self._before = set(self.known.labels)
        self.known.open.add(self._password)
        if self._labels is not None:
            self.known.labels.add(self._labels)

    def do(self, client: Client) -> str:
        """Save it."""
        saved = client.save_password(self._password, username=self.name, labels=self._labels)
        if self._labels is not None:
            self.known.labels = {self._labels}
        return self._saved(saved.version)

    def _saved(self, version: int | None) -> str:
        if version is None:
            return "a save was answered without its version"
        return self.known.saved(version, self._password)

    def undone(self) -> None:
        """Neither is there."""
        self.known.open.discard(self._password)
        if self._labels is not None:
            self.known.labels = self._before


class Restore(Save):
    """A save of what an older version holds."""

    def __init__(self, name: str, known: Name, version: int) -> None:
        super().__init__(name, known, known.versions[version], None)
        self._version = version

    def do(self, client: Client) -> str:
        """Restore it."""
        return self._saved(client.restore_password(self.name, self._version).version)


class Generate(Save):
    """A password that the service makes, and saves."""

    def __init__(self, name: str, known: Name) -> None:
        super().__init__(name, known, GENERATED, None)

    def do(self, client: Client) -> str:
        """Have it made, and take note of it."""
        made = client.generate_password(username=self.name, alphabet=GENERATED_FROM)
        self.known.open.discard(GENERATED)
        self._password = made.password
        return self._saved(made.version)


class Label(Operation):
    """Other labels."""

    def __init__(self, name: str, known: Name, labels: Labels) -> None:
        super().__init__(name, known)
        self._labels = labels

    def begin(self) -> None:
        """They may be these from here on."""
        self._before = set(self.known.labels)
        self.known.labels.add(self._labels)

    def do(self, client: Client) -> str:
        """Set them."""
        labels = tuple(client.label_user(self.name, self._labels))
        self.known.labels = {self._labels}
        return "" if labels == self._labels else "labels were answered that were not asked for"

    def undone(self) -> None:
        """They are those of before."""
        self.known.labels = self._before


class Delete(Operation):
    """The end of a user."""

    def begin(self) -> None:
        """The user may be gone from here on."""
        self.known.deleting = True

    def do(self, client: Client) -> str:
        """Delete it."""
        client.delete_user(self.name)
        self.known.deleted()
        return ""

    def undone(self) -> None:
        """The user is there."""
        self.known.deleting = False


# --- What changes nothing. ---


class Reading(Operation):
    """Something that is only read."""

    changes = False


class Get(Reading):
    """A password, the newest or an older one."""

    def __init__(self, name: str, known: Name, version: int) -> None:
        super().__init__(name, known)
        self._version = version

    def do(self, client: Client) -> str:
        """Read it, and compare."""
        newest = self._version == self.known.newest
        got = client.get_password(self.name, version=None if newest else self._version)
        if (got.version, got.password) == (self._version, self.known.versions[self._version]):
            return ""
        return f"version {got.version} was answered, or another password, for {self._version}"


class GetShared(Reading):
    """The newest password of a name that another source saves as well."""

    def __init__(self, name: str, known: Name, beginning: str) -> None:
        super().__init__(name, known)
        self._beginning = beginning

    def do(self, client: Client) -> str:
        """Read it; it must be one of this name's, and not older than what was acknowledged."""
        newest = self.known.newest
        got = client.get_password(self.name)
        if got.version < newest:
            return f"version {got.version} was answered, and {newest} was acknowledged"
        return "" if got.password.startswith(self._beginning) else "another's password was answered"


class Verify(Reading):
    """Whether a password is right; `wrong` asks with one that is not."""

    def __init__(self, name: str, known: Name, *, wrong: bool) -> None:
        super().__init__(name, known)
        self._wrong = wrong

    def do(self, client: Client) -> str:
        """Ask."""
        password = self.known.versions[self.known.newest]
        valid = client.verify_password(self.name, password + "!" if self._wrong else password)
        return "" if valid != self._wrong else f"a verification was answered {valid}"


class History(Reading):
    """Which versions are kept."""

    def do(self, client: Client) -> str:
        """Read the list, and compare."""
        versions = [each.version for each in client.password_history(self.name)]
        wanted = sorted(self.known.versions, reverse=True)
        return "" if versions == wanted else f"{versions} are kept, and {wanted} were acknowledged"


class Page(Reading):
    """The listing of all users whose names begin with this one: it is there, as it is."""

    def do(self, client: Client) -> str:
        """Read the page, and look for the name."""
        users = {user.username: user for user in client.list_users(prefix=self.name).users}
        user = users.get(self.name)
        if user is None or user.version != self.known.newest:
            return "a listing lacks it, or has another version"
        return "" if tuple(user.labels) in self.known.labels else "a listing has other labels"
