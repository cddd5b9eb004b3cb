"""The administrator of the tortured service: its applications, their tokens, and its keys.

Tokens are changed here, in the way that the command does it; keys by the command itself, in a
process that can be killed over it.
"""

from __future__ import annotations

import subprocess
import sys
import time

import apsw
from peewee import PeeweeException

from pwserver.errors import PwserverError
from pwserver.wire.messages import RIGHTS
from tests.support.processes import end_session, launch
from tests.support.shell import TREE_ENVIRONMENT, Ran, Shell
from tests.trials.report import TrialFailed
from tests.trials.restarted import RestartedService
from tests.trials.torture.state import State
from workers.admin.administration import Administration, administration

APPLICATIONS = {"red": False, "blue": False, "public": True}
"""Applications, and whether each uses the common book."""

REGISTER_TIMEOUT_S = 30.0
PAUSE_S = 0.1


class Administrator:
    """What an administrator does to a service."""

    def __init__(self, service: RestartedService, state: State) -> None:
        self._service = service
        self._state = state
        self._rotation: subprocess.Popen[bytes] | None = None
        self.refused = 0
        """How often something could not be done, as may be where so much happens."""
        self._reason = ""

    def register(self) -> None:
        """Give every application a token, whether the book knows it or not."""
        deadline = time.monotonic() + REGISTER_TIMEOUT_S
        for name in APPLICATIONS:
            while not self.renew(name):
                if time.monotonic() > deadline:
                    raise TrialFailed(f"no token can be had for {name}: {self._reason}")
                time.sleep(PAUSE_S)

    def renew(self, name: str, grace_s: float = 0.0) -> bool:
        """Give an application a new token; return whether that could be done."""
        try:
            with administration(self._service.store) as files:
                self._state.tokens[name] = _token(files, name, grace_s)
        except (PwserverError, apsw.Error, PeeweeException) as error:
            self.refused += 1
            self._reason = str(error)
            return False
        return True

    def begin_rotation(self) -> bool:
        """Add a key and begin to seal everything with it; return whether there is a new one.

        Goes on with a rotation that was killed before.
        """
        self.end_rotation()
        added = self._run("key", "add")
        self._rotation = launch(
            [sys.executable, "-m", "pwserver", "key", "rotate", *self._service.files],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self._service.output,
            env=TREE_ENVIRONMENT,
        )
        return added.code == 0

    def end_rotation(self) -> bool:
        """Kill a rotation that is at work; return whether there was one."""
        if self._rotation is None:
            return False
        running = self._rotation.poll() is None
        end_session(self._rotation)
        _, said = self._rotation.communicate()
        if not running and self._rotation.returncode:
            self.refused += 1
        if b"Traceback" in said:
            last_line = said.decode(errors="replace").strip().splitlines()[-1]
            self._state.broken.append(f"key rotate failed: {last_line}")
        self._rotation = None
        return running

    def seal_again(self) -> None:
        """Seal everything with the newest key, as a start asks for if the book does not have it."""
        ran = self._run("key", "rotate")
        if ran.code:
            raise TrialFailed(f"a copy that was put back cannot be sealed again: {ran.err.strip()}")

    def verify_record(self) -> str:
        """Return what is wrong with the audit record, in words, if anything is."""
        ran = self._run("audit", "verify", "--json")
        if ran.records and ran.records[-1]["genuine"]:  # a full disk loses some, which it says
            return ""
        return f"{ran.out}{ran.err}".strip()

    def _run(self, *words: str) -> Ran:
        shell = Shell(self._service.output, TREE_ENVIRONMENT)
        return shell.run(*words, *self._service.files)


def _token(files: Administration, name: str, grace_s: float) -> str:
    if any(row.name == name for row in files.applications()):
        return files.rotate(name, grace_s).reveal()
    return files.add(name, RIGHTS, common=APPLICATIONS[name]).reveal()
