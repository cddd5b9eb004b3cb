"""The canary: a password that the tests of faults save, and that must be seen nowhere afterwards.

A `WatchedService` is a service like any other, but its clients save the canary unless they are told
otherwise, and `end` searches all that it wrote, printed and showed of itself: whatever was done to
it meanwhile, that is clean, no process is left, and nothing it logged is a traceback.
"""

import base64
import contextlib
import threading
from pathlib import Path
from typing import Any, Self

from tests.support.harness import SAVED, Peer, Service

CANARY = "canary-7f3d-\N{SNOWMAN}"
WORDS = ("canary-7f3d", CANARY)
SAVE = {"message": "save_password", "password": CANARY}

_GIVING_OUT = (b'"return_password"', b'"return_generated_password"')
"""The replies that have a password in them."""

_KEY_FILE = b"pwserver-"
"""How a key file begins: the one place where keys are to be."""


def forms(*secrets: str) -> list[bytes]:
    """Return secrets as they may be written: as they are, in hex, and in base64."""
    plain = [secret.encode() for secret in secrets]
    return [form for each in plain for form in (each, each.hex().encode(), base64.b64encode(each))]


class CanaryPeer(Peer):
    """A client that saves the canary, and looks for it in what it is answered."""

    def save(self, password: str = CANARY) -> Any:
        """Save a password and return the reply."""
        return super().save(password)

    def line(self) -> bytes:
        """Return the next reply as it came, or nothing at the end."""
        line = super().line()
        if line != SAVED and not any(word in line for word in _GIVING_OUT):
            assert b"canary" not in line, "a reply repeats a password"
        return line


class WatchedService(Service):
    """A service that is searched for the canary, its keys and its token when it has ended."""

    def __init__(self, folder: Path, *flags: str, port: int = 0, **popen: Any) -> None:
        super().__init__(folder, *flags, port=port, **popen)
        self.secrets = forms(*WORDS)  # to which tests may add
        self._printed: list[bytes] = []
        self._printing = threading.Thread(target=self._read_console)

    def wait_until_listening(self) -> Self:
        """Read the first line of standard output; from then on all of it is read, and kept."""
        super().wait_until_listening()
        self.secrets += [
            line.split()[-1]
            for file in self.folder.rglob("*.key")
            for line in file.read_bytes().splitlines()
        ]
        self._printing.start()
        return self

    def _read_console(self) -> None:
        # `Service.ended` would read as well: from now on there is nothing for it.
        output, self.process.stdout = self.process.stdout, None
        assert output is not None
        with output:
            for line in output:
                self._printed.append(line)

    @property
    def printed(self) -> bytes:
        """What the console has printed so far, behind the first line."""
        return b"".join(self._printed)

    def peer(self) -> Peer:
        """Return a new connection of a guest, which saves the canary."""
        return CanaryPeer(self.port)

    def processes(self) -> dict[str, int]:
        """Return all processes of the service that run, by their names."""
        return {**self.children(), "listener": self.process.pid}

    def end(self) -> None:
        """Stop the service if it runs; fail if anything is not as it must be after any fault."""
        shown: list[str] = []
        code = 0
        try:
            if self.process.poll() is None:
                shown, code = self.shown(), self.stop()
        finally:
            left = self.left_over()
            self.kill_everything()
            if self._printing.ident:
                self._printing.join()
        assert code == 0, f"the stop was not clean: {code}\n{self.stderr}"
        assert not left, "processes outlived the service"
        assert not shown, "a secret is shown by a process"
        assert not self.written(), "a secret is written in the clear"
        printed = self.printed
        assert not any(secret in printed for secret in self._secrets()), "a secret is printed"
        assert "Traceback" not in self.stderr, self.stderr

    def _secrets(self) -> list[bytes]:
        return [*self.secrets, *(forms(self._token) if self._token else [])]

    def written(self) -> list[str]:
        """Return the files that have a secret in the clear, other than key files."""
        secrets = self._secrets()
        found = []
        for file in self.folder.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                if not data.startswith(_KEY_FILE) and any(each in data for each in secrets):
                    found.append(file.name)
        return found

    def shown(self) -> list[str]:
        """Return the processes that show a secret in their arguments, environment or names."""
        secrets = self._secrets()
        found = []
        for name, pid in self.processes().items():
            for what in ("cmdline", "environ", "comm"):
                with contextlib.suppress(OSError):  # who may not look, or is too late, sees nothing
                    content = Path(f"/proc/{pid}/{what}").read_bytes()
                    found += [f"{name} {what}" for secret in secrets if secret in content]
        return found
